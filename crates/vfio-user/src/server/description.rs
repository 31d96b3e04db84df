//! What a device is, as its clients see it.

use std::sync::Arc;

use doorbell_platform::{Range, Region};

/// Regions and interrupts, by index ([`crate::wire::region`], [`crate::wire::irq`]).
#[derive(Debug, Default)]
pub struct Description {
    /// The regions.
    pub regions: Vec<RegionDescription>,
    /// How many interrupts there are of each kind.
    pub irqs: Vec<u32>,
}

/// A region; by default there is none with this index.
#[derive(Clone, Debug, Default)]
pub struct RegionDescription {
    /// In bytes; 0 for none.
    pub size: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Memory that clients map ([`Region::shared`]), whose byte 0 is the region's.
    pub memory: Option<Arc<Region>>,
    /// The parts that they may map, whole pages of the memory.
    pub areas: Vec<Range>,
}
