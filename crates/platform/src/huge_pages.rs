//! The pools of huge pages: memory that stays in place and is mapped with few entries, set aside by whoever runs the machine.

use std::{fs, io, path::PathBuf};

use crate::sysfs::{Sysfs, names, numbered, parsed};

/// The huge pages of one size, on the whole machine or on one NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The node; none for the whole machine.
    pub node: Option<u32>,
    /// Bytes of a page.
    pub page: u64,
    /// Pages set aside.
    pub total: u64,
    /// Those nobody uses.
    pub free: u64,
    folder: PathBuf,
}

impl Pool {
    /// All pools: the machine's first, then each node's; by the size of their pages.
    pub fn all(sysfs: &Sysfs) -> Vec<Self> {
        let nodes = sysfs.path("devices/system/node");
        let of_nodes = numbered(&nodes, "node").into_iter();
        let of_nodes = of_nodes.map(|node| (Some(node), nodes.join(format!("node{node}/hugepages"))));
        let folders = [(None, sysfs.path("kernel/mm/hugepages"))].into_iter().chain(of_nodes);
        let pools = folders.flat_map(|(node, folder)| {
            let pool = |name: String| Self::read(node, folder.join(name));
            let mut pools: Vec<Self> = names(&folder).into_iter().filter_map(pool).collect();
            pools.sort_by_key(|pool| pool.page);
            pools
        });
        pools.collect()
    }

    fn read(node: Option<u32>, folder: PathBuf) -> Option<Self> {
        let kibibytes = folder.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let page = kibibytes.parse::<u64>().ok()?.checked_mul(1024)?;
        let pages = |name| parsed(&folder.join(name));
        Some(Self { node, page, total: pages("nr_hugepages")?, free: pages("free_hugepages")?, folder })
    }

    /// The file whose number is how many pages are set aside.
    pub fn file(&self) -> PathBuf {
        self.folder.join("nr_hugepages")
    }

    /// Sets `pages` pages aside and returns how many it has now: fewer where memory is too scattered.
    ///
    /// # Errors
    /// The system's answer; `PermissionDenied` for all but root.
    pub fn resize(&self, pages: u64) -> io::Result<u64> {
        fs::write(self.file(), pages.to_string())?;
        parsed(&self.file()).ok_or(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn pools_are_told_by_node_and_size_and_can_grow() {
        let tree = Tree::new();
        assert!(Pool::all(&tree.sysfs()).is_empty(), "a kernel without huge pages");
        for (folder, total, free) in [
            ("kernel/mm/hugepages/hugepages-1048576kB", "0", "0"),
            ("kernel/mm/hugepages/hugepages-2048kB", "96", "80"),
            ("devices/system/node/node0/hugepages/hugepages-2048kB", "64", "48"),
            ("devices/system/node/node10/hugepages/hugepages-2048kB", "32", "32"),
        ] {
            tree.write(&tree.sysfs().path(folder).join("nr_hugepages"), total);
            tree.write(&tree.sysfs().path(folder).join("free_hugepages"), free);
        }
        let pools = Pool::all(&tree.sysfs());
        let seen: Vec<_> = pools.iter().map(|pool| (pool.node, pool.page >> 20, pool.total, pool.free)).collect();
        assert_eq!(seen, [(None, 2, 96, 80), (None, 1024, 0, 0), (Some(0), 2, 64, 48), (Some(10), 2, 32, 32)]);
        assert_eq!(pools[3].resize(40).unwrap(), 40);
        assert_eq!(Pool::all(&tree.sysfs())[3].total, 40);
    }
}
