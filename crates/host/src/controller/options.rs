//! What is asked of a controller.

use std::time::Duration;

use crate::identity::HostIdentity;

/// How a lost controller is brought back: bring-up is tried again after growing delays.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// Most attempts after one loss.
    pub attempts: u32,
    /// Delay before the first attempt; each further one is twice as long.
    pub first_delay: Duration,
    /// The longest delay.
    pub longest_delay: Duration,
}

impl Reconnect {
    /// So many attempts: the first after 100 ms, as a target that was only reset is back at once, and one every 5 s in the end, as
    /// a machine that boots takes minutes and is not helped by more.
    pub fn new(attempts: u32) -> Self {
        Self { attempts, first_delay: Duration::from_millis(100), longest_delay: Duration::from_secs(5) }
    }
}

/// Options of a controller; what the controller grants may be less.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// I/O queues to ask for, 1 to 65535.
    pub num_io_queues: u16,
    /// Entries of an I/O queue to ask for; limited to 2..=32768 and to what the controller supports.
    pub io_queue_size: u32,
    /// Keep alive timeout; `None` for none.
    pub keep_alive: Option<Duration>,
    /// Offer a digest over headers.
    pub header_digest: bool,
    /// Offer a digest over data.
    pub data_digest: bool,
    /// Receives that the queues of a poll group share, for each RDMA device; 0 for receives of each queue's own.
    pub rdma_srq_size: u32,
    /// Type of service of what is sent over RDMA; 0 for none.
    pub transport_tos: u8,
    /// Ask for submission queues without flow control.
    pub disable_sq_flow_control: bool,
    /// Let devices within reach report completions by interrupts, for workers that sleep.
    pub interrupts: bool,
    /// Put submission queues into the controller memory buffer of a PCIe device that has one for them.
    pub sq_cmb: bool,
    /// Use huge pages for what a device reads and writes, where the pool has some.
    pub huge_pages: bool,
    /// Let go of a device within reach by disabling it, without the shutdown notification.
    pub no_shutdown_notification: bool,
    /// The token that a virtual function under vfio-pci asks for.
    pub vf_token: Option<[u8; 16]>,
    /// Who we are; a transport ID's `hostnqn` goes before its name.
    pub host: HostIdentity,
    /// Bring the controller back when it is lost; `None` leaves it lost.
    pub reconnect: Option<Reconnect>,
    /// How long a step of bring-up or an admin command may take.
    pub admin_timeout: Duration,
    /// How long a connection with its Connect command may take.
    pub connect_timeout: Duration,
    /// How long bring-up may take in all, each attempt to bring a lost controller back too; or the reading of a discovery log.
    pub bring_up_timeout: Duration,
    /// How long an orderly shutdown may take at least; a controller may ask for up to 60 s (RTD3E).
    pub shutdown_timeout: Duration,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            num_io_queues: 1024,
            io_queue_size: 256,
            keep_alive: Some(Duration::from_secs(10)),
            header_digest: false,
            data_digest: false,
            rdma_srq_size: 0,
            transport_tos: 0,
            disable_sq_flow_control: false,
            interrupts: false,
            sq_cmb: true,
            huge_pages: true,
            no_shutdown_notification: false,
            vf_token: None,
            host: HostIdentity::of_this_machine().clone(),
            reconnect: None,
            admin_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            // Becoming ready alone may take 127.5 s (CAP.TO).
            bring_up_timeout: Duration::from_secs(180),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}
