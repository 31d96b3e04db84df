//! Files and loop devices to test, as the kernel has them.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A folder with files to test, on a file system with direct I/O: this crate's, where the temporary folder may be in memory.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("files-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A file of so many bytes that are there.
    pub fn file(&self, name: &str, len: usize) -> String {
        let path = self.0.join(name);
        let mut file = File::create(&path).unwrap();
        (0..len.div_ceil(1 << 20))
            .for_each(|piece| file.write_all(&vec![1; (len - (piece << 20)).min(1 << 20)]).unwrap());
        file.sync_all().unwrap();
        path.to_str().unwrap().into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A loop device over a file.
pub struct Loop(pub String);

impl Loop {
    /// None where this process may not have one.
    pub fn over(file: &str) -> Option<Self> {
        Self::with(&["--direct-io=on", file])
    }

    /// The same, that can only be read.
    pub fn read_only(file: &str) -> Option<Self> {
        Self::with(&["--read-only", file])
    }

    fn with(more: &[&str]) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).args(more).output();
        let device =
            output.ok().filter(|output| output.status.success()).map(|output| String::from_utf8(output.stdout));
        let device = device.map(|name| Self(name.unwrap().trim().into()));
        if device.is_none() {
            eprintln!("SKIPPED: no loop device is to be had (losetup as root)");
        }
        device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
