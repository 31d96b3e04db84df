//! What `discover` and `identify` need to reach a controller: a transport ID, options, and an end by ctrl-C.

use clap::Args;
use doorbell_host::{Cancel, ControllerOptions, TransportId};

use crate::signals;

/// Options that reach a controller.
#[derive(Debug, Args)]
pub struct Connection {
    /// Where it is, like 'trtype:tcp adrfam:IPv4 traddr:10.0.0.1 trsvcid:4420 subnqn:nqn…'
    #[arg(short = 'r', long = "transport", value_name = "TRANSPORT ID")]
    pub id: TransportId,
    /// Use a digest over headers
    #[arg(short = 'H', long = "enable-tcp-hdgst")]
    header_digest: bool,
    /// Use a digest over data
    #[arg(short = 'I', long = "enable-tcp-ddgst")]
    data_digest: bool,
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

impl Connection {
    /// Options for the controller, and the flag that ctrl-C sets.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub fn prepare(&self) -> Result<(ControllerOptions, Cancel), String> {
        let cancel = Cancel::new();
        let flag = cancel.clone();
        signals::on_signal(move || flag.cancel()).map_err(|why| format!("handling signals: {why}"))?;
        let options = ControllerOptions {
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            ..ControllerOptions::default()
        };
        Ok((options, cancel))
    }
}
