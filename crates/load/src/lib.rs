//! The load engine: workload, workers, recorder, plan, run.
