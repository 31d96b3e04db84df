//! Which node of a machine with several memories a core belongs to. Memory is put on one by [`crate::Region::bind_to_node`].

use crate::sysfs::{Sysfs, numbered};

/// The node of a core; none on a machine that knows no nodes.
pub fn node_of_core(sysfs: &Sysfs, core: usize) -> Option<u32> {
    numbered(&sysfs.path(format!("devices/system/cpu/cpu{core}")), "node").first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn a_core_knows_its_node() {
        let tree = Tree::new();
        tree.write(&tree.sysfs().path("devices/system/cpu/cpu3/node1/x"), "");
        tree.write(&tree.sysfs().path("devices/system/cpu/cpu3/node_list"), "");
        assert_eq!(node_of_core(&tree.sysfs(), 3), Some(1));
        assert_eq!(node_of_core(&tree.sysfs(), 4), None);
    }
}
