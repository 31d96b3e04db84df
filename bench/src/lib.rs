//! What Doorbell reaches, as a share of what the machine can do: measured side by side, because the speed of a shared machine
//! changes from minute to minute and only a ratio within one run says anything.

pub mod floor;
