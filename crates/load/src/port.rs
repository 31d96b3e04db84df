//! What a run needs of a namespace's controller; the host driver gives it, and tests give their own.

use doorbell_queue::IoQueue;

use crate::plan::Shape;

pub enum AnyQueue {
    Custom(Box<dyn IoQueue>),
}

/// A namespace to test.
pub struct Target {}

/// A namespace of a live controller.
pub(crate) trait Port: Send + Sync {
    /// The namespace.
    fn shape(&self) -> Shape;
    /// The transport's name in statistics.
    fn transport(&self) -> String;
    /// Connects one I/O queue of about `entries` entries; takes as long as the driver's deadlines allow.
    fn connect(&self, entries: u32) -> Result<AnyQueue, String>;
    /// Why the controller is lost, when it is.
    fn failure(&self) -> Option<String>;
    /// What the controller has told since the last call.
    fn events(&self) -> Vec<String>;
}
impl Port for Target {
    fn shape(&self) -> Shape {
        unimplemented!()
    }
    fn transport(&self) -> String {
        unimplemented!()
    }
    fn connect(&self, _: u32) -> Result<AnyQueue, String> {
        unimplemented!()
    }
    fn failure(&self) -> Option<String> {
        unimplemented!()
    }
    fn events(&self) -> Vec<String> {
        unimplemented!()
    }
}
