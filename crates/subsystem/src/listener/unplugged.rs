//! A connection without a socket, for tests and fuzz targets: what a host may send is handed over, what it is answered is taken.

use std::net::{Ipv4Addr, SocketAddr};

use doorbell_tcp::{Fault, Receiver, Role};

use super::{
    Context,
    exchange::{Exchange, MOST_H2C_DATA, Port},
};
use crate::target::Cooperative;

/// The controller's end of a connection to a [`Cooperative`] target, joined to nothing.
#[derive(Debug)]
pub struct Unplugged {
    receiver: Receiver,
    exchange: Exchange,
}

impl Default for Unplugged {
    fn default() -> Self {
        Self::new()
    }
}

impl Unplugged {
    /// A connection that has just been accepted.
    pub fn new() -> Self {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 4420));
        Self { receiver: Receiver::new(Role::Controller, MOST_H2C_DATA), exchange: Exchange::new(local) }
    }

    /// Takes bytes from the host, does all that can be done, and moves what there is to say to the end of `answers`. Nothing is
    /// taken any more when the connection is over.
    ///
    /// # Errors
    /// The host's breach of the protocol, or the one it reports: it is over.
    pub fn receive(&mut self, target: &mut Cooperative, bytes: &[u8], answers: &mut Vec<u8>) -> Result<(), Fault> {
        if self.is_over() {
            return Ok(());
        }
        let context = target.context();
        let store = context.pool.frames.store.clone();
        let (region, mut port) = (store.region(), Port { exchange: &mut self.exchange, context });
        let received = self.receiver.deliver(bytes, Some(region), &mut port);
        self.exchange.read(context);
        if let Some(digests) = self.exchange.agreement() {
            self.receiver.use_digests(digests);
        }
        self.answer(context, answers);
        while self.exchange.resume(context) {
            self.answer(context, answers);
        }
        received
    }

    /// Whether the host has disconnected, or its controller is gone.
    pub fn is_over(&self) -> bool {
        self.exchange.is_leaving() || self.exchange.is_over()
    }

    /// Releases everything the connection holds.
    pub fn close(mut self, target: &mut Cooperative) {
        let _ = self.exchange.close(target.context());
    }

    fn answer(&mut self, context: &mut Context, answers: &mut Vec<u8>) {
        self.exchange.sender.unload(Some(context.pool.frames.store.region()), answers);
        self.exchange.sent(&mut context.pool);
    }
}
