//! The limit of open files, which is the limit of connections of a target and of queues of a host.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files of this process as far as the hard limit allows, and returns what it is now; `None` is no limit.
pub fn raise_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is not permitted stays as it was, and is what is returned.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        assert_eq!(raise_limit(), getrlimit(Resource::Nofile).maximum);
    }
}
