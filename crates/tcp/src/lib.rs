//! The NVMe/TCP link that host and target share.
