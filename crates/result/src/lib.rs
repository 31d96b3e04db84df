//! The result model of a run and its histogram.
