//! The kernel's view of the machine as files. Where the tree is, is a parameter, so that tests bring their own.

#[cfg(test)]
pub(crate) mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where sysfs is mounted.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    /// Where every system has it: /sys.
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// A tree like sysfs in another place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path in the tree.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }
}

/// The names in a folder, ascending; none without the folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The numbers behind `prefix` among the names in a folder, ascending.
pub(crate) fn numbered(folder: &Path, prefix: &str) -> Vec<u32> {
    let number = |name: String| name.strip_prefix(prefix)?.parse().ok();
    let mut numbers: Vec<u32> = names(folder).into_iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The one line of a file, if there is any text in it.
pub fn line(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What the one line of a file says.
pub fn parsed<T: FromStr>(file: &Path) -> Option<T> {
    line(file)?.parse().ok()
}

/// The last part of what a symbolic link points to.
pub fn target_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}
