//! What the kernel says of block devices and of NVMe's generic character devices.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

const BLKROGET: u64 = 0x125e;
const BLKGETSIZE64: u64 = 0x8008_1272;
const NVME_IOCTL_ID: u64 = 0x4e40;
const NVME_IOCTL_ADMIN_CMD: u64 = 0xc048_4e41;
const IDENTIFY: u32 = 6;

/// Size of a block device in bytes.
///
/// # Errors
/// The system's answer, ENOTTY for what is no block device.
pub fn size(device: impl AsFd) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the kernel writes the one word that it is given.
    answer(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) })?;
    Ok(bytes)
}

/// Whether a block device can only be read.
///
/// # Errors
/// As [`size`].
pub fn is_read_only(device: impl AsFd) -> io::Result<bool> {
    let mut flag = 0_i32;
    // SAFETY: the kernel writes the one number that it is given.
    answer(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BLKROGET as _, &raw mut flag) })?;
    Ok(flag != 0)
}

/// The identifier of the namespace behind an NVMe device.
///
/// # Errors
/// The system's answer, ENOTTY for what is no such device.
pub fn namespace(device: impl AsFd) -> io::Result<u32> {
    // SAFETY: this request takes nothing and returns a number.
    answer(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), NVME_IOCTL_ID as _) }).map(|nsid| nsid as u32)
}

/// What Identify says of a namespace (CNS 0).
///
/// # Errors
/// The system's answer; an NVMe status as text.
pub fn identify(device: impl AsFd, nsid: u32) -> io::Result<Box<[u8; 4096]>> {
    let mut page = Box::new([0; 4096]);
    // struct nvme_admin_cmd in dwords: data at 6 and 7, its length at 9, command dwords 10 to 15 in their places.
    let address = page.as_mut_ptr().expose_provenance() as u64;
    let mut command = [0_u32; 18];
    (command[0], command[1]) = (IDENTIFY, nsid);
    (command[6], command[7], command[9]) = (address as u32, (address >> 32) as u32, 4096);
    if cfg!(target_endian = "big") {
        command.swap(6, 7);
    }
    // SAFETY: the structure has the size that the request names, and the driver writes no more than the 4096 bytes of the page.
    match answer(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), NVME_IOCTL_ADMIN_CMD as _, &raw mut command) })? {
        0 => Ok(page),
        status => Err(io::Error::other(format!("NVMe status {status:#06x}"))),
    }
}

fn answer(value: i32) -> io::Result<i32> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
