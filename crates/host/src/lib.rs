//! The NVMe host driver: probe, controllers, namespaces, queue pairs, transports.
