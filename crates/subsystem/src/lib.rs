//! An NVM subsystem in memory or on a file: the target.
