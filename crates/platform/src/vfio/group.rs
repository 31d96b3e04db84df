//! The door to a device: its IOMMU group, opened once a process and put into a container that all groups share where it can be.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    abi::{self, Argument, GroupStatus},
    container::Container,
};
use crate::{
    Sysfs,
    holder::Holder,
    pci::{Function, Group as Number},
};

/// The groups that this process has open: the kernel opens one only once.
static OPEN: Mutex<Vec<Group>> = Mutex::new(Vec::new());

fn open_groups() -> MutexGuard<'static, Vec<Group>> {
    // A panic elsewhere leaves the list as it was.
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open group in its container.
#[derive(Debug)]
struct Group {
    // Closed before the container; shared with who opens a device of it right now, who counts as a device.
    file: Arc<File>,
    number: Number,
    container: Arc<Container>,
    devices: usize,
}

/// A device's part in its group, which is closed with the last.
#[derive(Debug)]
pub(super) struct Membership {
    number: Number,
    container: Arc<Container>,
}

impl Membership {
    /// Opens a function by way of its group, which is opened first unless it is.
    pub fn open(
        function: &Function,
        number: Number,
        sysfs: &Sysfs,
        token: Option<&str>,
    ) -> Result<(Self, OwnedFd), String> {
        let name = |token: Option<&str>| {
            let token = token.map_or(String::new(), |token| format!(" vf_token={token}"));
            CString::new(format!("{}{token}", function.address)).map_err(|_| "a VF token with a zero byte".to_owned())
        };
        let (name, plain) = (name(token)?, name(None)?);
        let mut open = open_groups();
        let at = match open.iter().position(|group| group.number == number) {
            Some(at) => at,
            None => {
                let group = Group::open(function, number, sysfs, &open)?;
                open.push(group);
                open.len() - 1
            }
        };
        open[at].devices += 1;
        let membership = Self { number, container: open[at].container.clone() };
        let file = open[at].file.clone();
        // The kernel resets the device, which may take long: others open theirs meanwhile.
        drop(open);
        let mut device = abi::device(file.as_fd(), &name);
        if device.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            // A function that has nothing to do with virtual ones takes no token, and one token is given for all devices.
            device = abi::device(file.as_fd(), &plain);
        }
        // Before the membership, which may be the last.
        drop(file);
        Ok((membership, device.map_err(|error| no_device(function, token, &error))?))
    }

    pub fn container(&self) -> &Container {
        &self.container
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut open = open_groups();
        let Some(at) = open.iter().position(|group| group.number == self.number) else { return };
        open[at].devices -= 1;
        if open[at].devices == 0 {
            // Under the lock, so that who opens the group next finds it closed.
            open.swap_remove(at);
        }
    }
}

impl Group {
    fn open(function: &Function, number: Number, sysfs: &Sysfs, others: &[Self]) -> Result<Self, String> {
        let path = path(number);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| {
            let busy = error.raw_os_error() == Some(libc::EBUSY);
            let holders = if busy { Holder::all(std::slice::from_ref(&path)) } else { Vec::new() };
            refusal(function, &path, &error, &holders)
        })?;
        let mut status = GroupStatus::default();
        status.call(file.as_fd()).map_err(|error| format!("{} does not tell its state: {error}", path.display()))?;
        if status.flags & abi::VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(not_viable(number.number, &sysfs.group(number.number)?));
        }
        // A container may refuse: an IOMMU of another kind, memory at addresses that this device cannot use.
        let shared = others.iter().map(|group| &group.container).find(|container| {
            container.without_iommu() == number.without_iommu
                && abi::set_container(file.as_fd(), container.file()).is_ok()
        });
        let container = match shared {
            Some(container) => container.clone(),
            None => {
                let container = Container::open(number.without_iommu)?;
                abi::set_container(file.as_fd(), container.file()).map_err(|error| {
                    format!("{} cannot be used (VFIO_GROUP_SET_CONTAINER): {error}", path.display())
                })?;
                container.begin()?;
                Arc::new(container)
            }
        };
        Ok(Self { file: Arc::new(file), number, container, devices: 0 })
    }
}

/// The group of a function that can be used: it has one, and vfio-pci has the function.
pub(super) fn usable(function: &Function) -> Result<Number, String> {
    let address = function.address;
    if function.driver.as_deref() != Some("vfio-pci") {
        let driver = function
            .driver
            .as_ref()
            .map_or("no driver has it".to_owned(), |driver| format!("the driver {driver} has it"));
        return Err(format!(
            "{address} cannot be used from here: {driver}, where vfio-pci must; as root: doorbell setup bind {address}"
        ));
    }
    function.group.ok_or_else(|| {
        format!(
            "{address} is in no IOMMU group: the IOMMU is off or there is none. Switch it on in the firmware (VT-d, AMD-Vi) and with \
             intel_iommu=on or amd_iommu=on on the kernel's command line; as a last resort, where the kernel has it, as root: modprobe \
             vfio enable_unsafe_noiommu_mode=1"
        )
    })
}

fn path(number: Number) -> PathBuf {
    let prefix = if number.without_iommu { "noiommu-" } else { "" };
    format!("/dev/vfio/{prefix}{}", number.number).into()
}

/// Why a group's file cannot be opened.
fn refusal(function: &Function, path: &Path, error: &io::Error, holders: &[Holder]) -> String {
    let (address, shown) = (function.address, path.display());
    let advice = match error.raw_os_error() {
        Some(libc::ENOENT) => "VFIO is not ready for it; as root: modprobe vfio-pci".to_owned(),
        Some(libc::EACCES) => format!(
            "this user may not; as root: chown $USER {shown} (until the next start), or a udev rule SUBSYSTEM==\"vfio\", \
             GROUP=\"vfio\", MODE=\"0660\" and this user in that group"
        ),
        Some(libc::EPERM) => "only root (CAP_SYS_RAWIO) may use a device without an IOMMU".to_owned(),
        Some(libc::EBUSY) => match holders {
            [] => "another process has it (as root, fuser tells which); a group belongs to one process".to_owned(),
            holders => {
                let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
                format!("{} has it; a group belongs to one process", holders.join(", "))
            }
        },
        _ => "doorbell setup status says what is in the way".to_owned(),
    };
    format!("cannot open {shown}, the IOMMU group of {address}: {error}: {advice}")
}

/// Why a function is not opened although its group is.
fn no_device(function: &Function, token: Option<&str>, error: &io::Error) -> String {
    let address = function.address;
    let advice = match (error.raw_os_error(), token) {
        (Some(libc::EACCES), Some(token)) => {
            format!("{token} is not the token that it shares with its virtual functions, or the physical one (--vfio-vf-token)")
        }
        (Some(libc::EACCES), None) if function.physical.is_some() => {
            "its physical function is VFIO's too, and whoever has that chose a token, which is needed here (--vfio-vf-token)".to_owned()
        }
        (Some(libc::EACCES), None) => {
            "it has virtual functions in use, and needs the token that was chosen for them (--vfio-vf-token)".to_owned()
        }
        (Some(libc::ENODEV), _) => "vfio-pci does not have it any more, or it is being removed".to_owned(),
        _ => "doorbell setup status says what is in the way".to_owned(),
    };
    format!("VFIO does not open {address} (VFIO_GROUP_GET_DEVICE_FD): {error}: {advice}")
}

/// Why a group cannot be used although it was opened: some of its functions are in others' hands.
fn not_viable(number: u32, members: &[Function]) -> String {
    // What the kernel lets stay: nobody, VFIO itself, bridges.
    let harmless = |driver: &str| matches!(driver, "vfio-pci" | "pci-stub" | "pcieport");
    let others = members.iter().filter_map(|member| Some((member.address, member.driver.as_deref()?)));
    let others: Vec<_> = others.filter(|(_, driver)| !harmless(driver)).collect();
    let list: Vec<String> = others.iter().map(|(address, driver)| format!("{address} (driver {driver})")).collect();
    let advice: Vec<String> = others
        .iter()
        .map(|(address, _)| format!("echo {address} > /sys/bus/pci/devices/{address}/driver/unbind"))
        .collect();
    format!(
        "IOMMU group {number} cannot be used: all its devices must be in the hands of VFIO or of no driver, as the IOMMU cannot tell \
         them apart, and these are not: {}; if nothing needs them, as root: {}",
        list.join(", "),
        advice.join("; "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    fn function(tree: &Tree, address: &str, driver: Option<&str>, group: Option<u32>) -> Function {
        let folder = tree.function(address, "0x010802");
        if let Some(driver) = driver {
            tree.link(&folder.join("driver"), &format!("bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            tree.group(address, group);
        }
        tree.sysfs().function(address.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_function_in_other_hands_is_refused_with_what_to_do() {
        let tree = Tree::new();
        let text = usable(&function(&tree, "0000:01:00.0", Some("nvme"), Some(5))).unwrap_err();
        assert!(text.contains("the driver nvme has it") && text.contains("doorbell setup bind 0000:01:00.0"), "{text}");
        let text = usable(&function(&tree, "0000:02:00.0", None, Some(6))).unwrap_err();
        assert!(text.contains("no driver has it"), "{text}");
        let text = usable(&function(&tree, "0000:03:00.0", Some("vfio-pci"), None)).unwrap_err();
        assert!(text.contains("intel_iommu=on") && text.contains("enable_unsafe_noiommu_mode"), "{text}");
        let function = function(&tree, "0000:04:00.0", Some("vfio-pci"), Some(4_000_000));
        let number = usable(&function).unwrap();
        let text = Membership::open(&function, number, &tree.sysfs(), None).unwrap_err();
        assert!(text.contains("/dev/vfio/4000000") && text.contains("modprobe vfio-pci"), "{text}");
    }

    #[test]
    fn a_refusal_names_permissions_and_holders() {
        let tree = Tree::new();
        let function = function(&tree, "0000:01:00.0", Some("vfio-pci"), Some(5));
        let path = path(function.group.unwrap());
        let refusal =
            |number, holders: &[Holder]| refusal(&function, &path, &io::Error::from_raw_os_error(number), holders);
        let text = refusal(libc::EACCES, &[]);
        assert!(
            text.contains("chown $USER /dev/vfio/5") && text.contains("udev rule") && text.contains("0000:01:00.0"),
            "{text}"
        );
        let holder = Holder { process: 77, command: "qemu".to_owned() };
        assert!(refusal(libc::EBUSY, &[holder]).contains("process 77 (qemu) has it"));
        assert!(refusal(libc::EBUSY, &[]).contains("another process has it"));
        assert!(refusal(libc::EPERM, &[]).contains("CAP_SYS_RAWIO"));
        let number = Number { number: 5, without_iommu: true };
        assert_eq!(super::path(number), Path::new("/dev/vfio/noiommu-5"));
    }

    #[test]
    fn a_token_that_is_missing_or_wrong_is_told() {
        let tree = Tree::new();
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        let mut function = function(&tree, "0000:01:00.4", Some("vfio-pci"), Some(5));
        assert!(no_device(&function, None, &refused).contains("virtual functions in use"));
        function.physical = Some("1:0.0".parse().unwrap());
        assert!(no_device(&function, None, &refused).contains("its physical function is VFIO's"));
        let text = no_device(&function, Some("11111111-2222-3333-4444-555555555555"), &refused);
        assert!(text.contains("0000:01:00.4") && text.contains("555555555555 is not the token"), "{text}");
    }

    #[test]
    fn a_group_that_is_shared_names_the_others() {
        let tree = Tree::new();
        function(&tree, "0000:01:00.0", Some("vfio-pci"), Some(5));
        function(&tree, "0000:01:00.1", None, None);
        function(&tree, "0000:00:01.0", Some("pcieport"), None);
        function(&tree, "0000:01:00.2", Some("ahci"), None);
        for (other, driver) in [("0000:01:00.1", false), ("0000:00:01.0", true), ("0000:01:00.2", true)] {
            tree.link(
                &tree.sysfs().path("kernel/iommu_groups/5/devices").join(other),
                &format!("bus/pci/devices/{other}"),
            );
            assert_eq!(tree.sysfs().function(other.parse().unwrap()).unwrap().driver.is_some(), driver);
        }
        let text = not_viable(5, &tree.sysfs().group(5).unwrap());
        assert!(text.contains("are not: 0000:01:00.2 (driver ahci);"), "{text}");
        assert!(text.contains("/sys/bus/pci/devices/0000:01:00.2/driver/unbind"), "{text}");
    }
}
