//! What Doorbell reaches, as a share of what the machine can do: measured side by side, because the speed of a shared machine
//! changes from minute to minute and only a ratio within one run says anything.

pub mod copy_floor;
pub mod floor;
pub mod priority;
pub mod program;
pub mod ring_floor;

/// The middle of some measurements.
///
/// # Panics
/// When there are none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
