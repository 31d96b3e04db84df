//! Moving devices between the kernel's driver and vfio-pci. Each write to sysfs is told, and what came of it is read back.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use doorbell_platform::{
    holder::Holder,
    huge_pages::Pool,
    pci::{Function, NVME},
    sysfs::target_name,
};

use super::{
    Choice, KERNEL, System, VFIO,
    status::{Blocker, Device, group_file, iommu, missing},
};

/// Moves devices.
pub struct Mover<'a> {
    /// The machine.
    pub system: &'a System,
    /// How long the kernel may take for a step.
    pub patience: Duration,
    /// Takes each line of the report.
    pub say: &'a dyn Fn(String),
}

impl Mover<'_> {
    /// Gives the chosen devices to vfio-pci. Those in use stay where they are, unless their serial number is among `force`.
    ///
    /// # Errors
    /// For each device that was named and not moved, why and how it was left. With `--all` those in use are none of these.
    pub fn bind(&self, choice: &Choice, force: &[String]) -> Result<(), String> {
        let devices = self.chosen(choice, VFIO)?;
        let serials: Vec<_> = devices.iter().flat_map(|device| &device.controllers).map(|one| &one.serial).collect();
        if let Some(serial) = force.iter().find(|serial| !serials.contains(serial)) {
            return Err(format!(
                "--force {serial}: no device of those chosen has this serial number; nothing was changed"
            ));
        }
        let mut failures = self.pages(choice);
        if let (false, Some(Blocker { why, remedy })) = (devices.is_empty(), iommu(self.system)) {
            failures.push(format!("{why}, so {VFIO} cannot have a device. To change that:\n{remedy}"));
            return Err(failures.join("\n"));
        }
        if !devices.is_empty() {
            for module in missing(self.system) {
                (self.say)(format!("modprobe {module}"));
                (self.system.modprobe)(self.system, module)?;
            }
        }
        for device in &devices {
            let forced = device.controllers.iter().any(|one| force.contains(&one.serial));
            let address = device.function.address;
            match &device.uses[..] {
                [first, ..] if choice.all && !forced => {
                    (self.say)(format!("{address} is in use and stays where it is: {}", first.why));
                    continue;
                }
                uses @ [_, ..] if !forced => {
                    failures.push(in_use(device, uses));
                    continue;
                }
                uses => uses.iter().for_each(|one| (self.say)(format!("{address}: taken although {}", one.why))),
            }
            match self.move_to(&device.function, Some(VFIO)) {
                Ok(()) => failures.extend(self.bound(&device.function).err()),
                Err(why) => failures.push(why),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
    }

    /// Gives the chosen devices back to the kernel's driver.
    ///
    /// # Errors
    /// For each device that was named and not moved, why and how it was left. With `--all` those in use are none of these.
    pub fn reset(&self, choice: &Choice) -> Result<(), String> {
        let devices = self.chosen(choice, KERNEL)?;
        let mut failures = self.pages(choice);
        if !devices.is_empty() && !self.system.sysfs.path("bus/pci/drivers").join(KERNEL).exists() {
            (self.say)(format!("modprobe {KERNEL}"));
            (self.system.modprobe)(self.system, KERNEL)?;
        }
        for Device { function, .. } in &devices {
            // The kernel would wait for it, and keep this process waiting.
            let holder = group_file(self.system, function).and_then(|file| Holder::all(&[file]).into_iter().next());
            match holder {
                Some(holder) if choice.all => {
                    (self.say)(format!("{} is in use and stays where it is: {holder} drives it", function.address));
                }
                Some(holder) => failures.push(format!(
                    "{} is in use and was not touched: {holder} drives it. Wait for it, or: kill {}",
                    function.address, holder.process
                )),
                None => failures.extend(self.move_to(function, None).err()),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
    }

    /// The devices to move; those that `driver` has already are told and left out.
    fn chosen(&self, choice: &Choice, driver: &str) -> Result<Vec<Device>, String> {
        let sysfs = &self.system.sysfs;
        if choice.addresses.is_empty() && !choice.all && choice.hugepages.is_none() {
            return Err("which devices? Name them by address, or --all; `doorbell setup status` lists them".into());
        }
        let functions = if choice.all {
            sysfs.functions(NVME)?
        } else {
            choice.addresses.iter().map(|&address| sysfs.function(address)).collect::<Result<_, _>>()?
        };
        if choice.all && functions.is_empty() {
            return Err("this machine has no NVMe device; `doorbell setup status` says what to do without".into());
        }
        if let Some(other) = functions.iter().find(|function| function.class != NVME) {
            return Err(format!(
                "{} is no NVMe device: its class is {:06x}h; nothing was changed",
                other.address, other.class
            ));
        }
        let (there, rest): (Vec<_>, Vec<_>) =
            functions.into_iter().partition(|function| function.driver.as_deref() == Some(driver));
        for function in there {
            (self.say)(format!("{}: {driver} has it already", function.address));
        }
        rest.into_iter().map(|function| Device::look(self.system, function)).collect()
    }

    /// Sets huge pages aside where that was asked for; what went wrong, if so.
    fn pages(&self, choice: &Choice) -> Vec<String> {
        let Some(count) = choice.hugepages else { return Vec::new() };
        let pool = Pool::all(&self.system.sysfs).into_iter().find(|pool| pool.node.is_none() && pool.page == 2 << 20);
        let Some(pool) = pool else { return vec!["this kernel has no huge pages of 2 MiB".into()] };
        (self.say)(format!("{count} to {}", pool.file().display()));
        match pool.resize(count) {
            Ok(now) if now == count => Vec::new(),
            Ok(now) => vec![format!(
                "{now} huge pages of 2 MiB instead of {count}: memory is short or scattered, or pages are in use; \
                 echo 3 >/proc/sys/vm/drop_caches and ask again, or ask right after boot"
            )],
            Err(error) => vec![format!("{}: {}", pool.file().display(), refusal(&error))],
        }
    }

    /// Takes a function from its driver and has the kernel find another: the one that is named, or the one that usually has it.
    fn move_to(&self, function: &Function, driver: Option<&str>) -> Result<(), String> {
        let address = function.address.to_string();
        let steps = || {
            self.write(&function.folder.join("driver_override"), driver.unwrap_or_default())?;
            if function.driver.is_some() {
                self.write(&function.folder.join("driver/unbind"), &address)?;
            }
            self.write(&self.system.sysfs.path("bus/pci/drivers_probe"), &address)
        };
        let link = function.folder.join("driver");
        let wanted = |now: &Option<String>| match driver {
            Some(driver) => now.as_deref() == Some(driver),
            None => now.as_deref().is_some_and(|now| now != VFIO),
        };
        let failed = |why: &str| {
            let now =
                target_name(&link).map_or("no driver has it now".into(), |now| format!("the driver {now} has it now"));
            let undo =
                if driver.is_some() { format!("; to undo: doorbell setup reset {address}") } else { String::new() };
            format!("{address}: {why}; {now}{undo}")
        };
        steps().map_err(|why| failed(&why))?;
        let started = Instant::now();
        loop {
            let now = target_name(&link);
            if wanted(&now) {
                (self.say)(format!("{address}: {} has it", now.unwrap_or_default()));
                return Ok(());
            }
            if started.elapsed() > self.patience {
                let driver = driver.map_or("no driver".into(), |driver| format!("the driver {driver} has not"));
                return Err(failed(&format!("{driver} taken it within {:?}; dmesg may say why", self.patience)));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Says what is left to do for a device that vfio-pci has now, if anything is, and how a plain user gets at it.
    fn bound(&self, function: &Function) -> Result<(), String> {
        let device = Device::look(self.system, self.system.sysfs.function(function.address)?)?;
        for Blocker { why, remedy } in &device.blockers {
            (self.say)(format!("{}: still in the way: {why}\n  {remedy}", function.address));
        }
        if let Some(file) = group_file(self.system, &device.function).filter(|_| device.blockers.is_empty()) {
            (self.say)(format!("for a user other than root: chown USER {}", file.display()));
        }
        Ok(())
    }

    /// Writes to a file of sysfs. The kernel answers when it is done, which may be never: it waits for whoever has a device open.
    fn write(&self, file: &Path, text: &str) -> Result<(), String> {
        (self.say)(format!("{} to {}", if text.is_empty() { "nothing" } else { text }, file.display()));
        let (sender, answer) = mpsc::channel();
        let (path, line) = (file.to_owned(), format!("{text}\n"));
        thread::spawn(move || {
            let open = OpenOptions::new().write(true).truncate(true).open(path);
            let _ = sender.send(open.and_then(|mut file| file.write_all(line.as_bytes())));
        });
        match answer.recv_timeout(self.patience) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{}: {}", file.display(), refusal(&error))),
            Err(_) => Err(format!(
                "{}: no answer from the kernel within {:?}: somebody has the device open",
                file.display(),
                self.patience
            )),
        }
    }
}

fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{error}: run this as root"),
        io::ErrorKind::ReadOnlyFilesystem => format!("{error}: this must run outside a container, as root"),
        _ => error.to_string(),
    }
}

/// Why a device was not touched, with what ends each use.
fn in_use(device: &Device, uses: &[Blocker]) -> String {
    let address = device.function.address;
    let each = uses.iter().map(|Blocker { why, remedy }| format!("  {why}\n    {remedy}\n"));
    let serial = device.controllers.first().map_or("SERIAL", |one| one.serial.as_str());
    format!(
        "{address} is in use and was not touched:\n{}  or, for the uses to lose it: doorbell setup bind {address} --force {serial}",
        each.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, fs};

    use super::{super::tree::Tree, *};

    /// Long enough for a loaded machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// What a command said, and how it ended.
    struct Outcome {
        said: String,
        end: Result<(), String>,
    }

    fn run(tree: &Tree, patience: Duration, command: impl Fn(&Mover) -> Result<(), String>) -> Outcome {
        run_on(&tree.system(), patience, command)
    }

    fn run_on(system: &System, patience: Duration, command: impl Fn(&Mover) -> Result<(), String>) -> Outcome {
        let said = RefCell::new(String::new());
        let end = command(&Mover { system, patience, say: &|line| *said.borrow_mut() += &(line + "\n") });
        Outcome { said: said.into_inner(), end }
    }

    fn these(addresses: &[&str]) -> Choice {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Choice { addresses, all: false, hugepages: None }
    }

    const ALL: Choice = Choice { addresses: Vec::new(), all: true, hugepages: None };
    const ONE: &str = "0000:01:00.0";
    const TWO: &str = "0000:02:00.0";

    fn driver(tree: &Tree, address: &str) -> Option<String> {
        tree.function_at(address).driver
    }

    /// Mounts a file system on the namespace of `nvme0`.
    fn mount(tree: &Tree) {
        tree.write("proc/self/mountinfo", "30 20 0:9 / /data rw - btrfs /dev/nvme0n1 rw\n");
    }

    #[test]
    fn a_device_goes_to_vfio_and_back() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1").with_kernel();
        let there = run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &[]));
        assert_eq!(there.end, Ok(()), "{}", there.said);
        assert_eq!(driver(&tree, ONE).as_deref(), Some("vfio-pci"));
        for told in ["vfio-pci to ", "driver_override", "driver/unbind", "drivers_probe", "vfio-pci has it", "/vfio/7"]
        {
            assert!(there.said.contains(told), "{told}: {}", there.said);
        }
        let again = run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &[]));
        assert_eq!((again.end, again.said.as_str()), (Ok(()), "0000:01:00.0: vfio-pci has it already\n"));

        let back = run(&tree, PATIENCE, |mover| mover.reset(&these(&[ONE])));
        assert_eq!(back.end, Ok(()), "{}", back.said);
        assert!(back.said.contains("0000:01:00.0: nvme has it\n"), "{}", back.said);
        assert_eq!(driver(&tree, ONE).as_deref(), Some("nvme"));
        assert_eq!(tree.read(&format!("sys/bus/pci/devices/{ONE}/driver_override")), "\n");
    }

    #[test]
    fn a_device_in_use_is_not_touched_unless_its_serial_is_given() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1").with_kernel();
        tree.add_drive(TWO, "nvme1", "S2", 8);
        mount(&tree);
        let refused = run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE, TWO]), &[]));
        let why = refused.end.unwrap_err();
        for part in ["0000:01:00.0 is in use", "nvme0n1 is mounted on /data", "umount /data", "--force S1"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert_eq!(driver(&tree, ONE).as_deref(), Some("nvme"));
        assert_eq!(driver(&tree, TWO).as_deref(), Some("vfio-pci"), "the other one is moved all the same");

        let wrong = run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &["S3".into()]));
        assert!(wrong.end.unwrap_err().contains("--force S3"));
        assert_eq!(wrong.said, "");
        let forced = run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &["S1".into()]));
        assert_eq!(forced.end, Ok(()));
        assert!(forced.said.contains("taken although nvme0n1 is mounted on /data"), "{}", forced.said);
        assert_eq!(driver(&tree, ONE).as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn all_leaves_out_what_is_in_use() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1").with_kernel();
        tree.add_drive(TWO, "nvme1", "S2", 8);
        tree.add_function("0000:03:00.0", "0x010601", "ahci", 9);
        mount(&tree);
        let bound = run(&tree, PATIENCE, |mover| mover.bind(&ALL, &[]));
        assert_eq!(bound.end, Ok(()));
        assert!(bound.said.contains("0000:01:00.0 is in use and stays"), "{}", bound.said);
        let drivers = [ONE, TWO, "0000:03:00.0"].map(|address| driver(&tree, address));
        assert_eq!(drivers, ["nvme", "vfio-pci", "ahci"].map(|name| Some(name.to_owned())));
        assert_eq!(run(&tree, PATIENCE, |mover| mover.reset(&ALL)).end, Ok(()));
        assert_eq!(driver(&tree, TWO).as_deref(), Some("nvme"));
    }

    #[test]
    fn a_device_that_a_process_drives_is_not_given_back() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1").with_kernel();
        assert_eq!(run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &[])).end, Ok(()));
        let open = fs::File::open(tree.path("dev/vfio/7")).unwrap();
        let why = run(&tree, PATIENCE, |mover| mover.reset(&these(&[ONE]))).end.unwrap_err();
        assert!(why.contains(&format!("process {} (", std::process::id())) && why.contains("not touched"), "{why}");
        let all = run(&tree, PATIENCE, |mover| mover.reset(&ALL));
        assert!(all.end.is_ok() && all.said.contains("stays where it is"), "{}", all.said);
        assert_eq!(driver(&tree, ONE).as_deref(), Some("vfio-pci"));
        drop(open);
        assert_eq!(run(&tree, PATIENCE, |mover| mover.reset(&these(&[ONE]))).end, Ok(()));
    }

    #[test]
    fn what_the_kernel_does_not_do_is_told_with_how_things_stand() {
        // Nobody obeys what is written, which has to be written all the same in this time.
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        let patience = Duration::from_secs(1);
        let why = run(&tree, patience, |mover| mover.bind(&these(&[ONE]), &[])).end.unwrap_err();
        for part in ["vfio-pci has not taken it", "dmesg", "the driver nvme has it now", "setup reset 0000:01:00.0"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        fs::remove_file(tree.path("sys/bus/pci/drivers_probe")).unwrap();
        let why = run(&tree, patience, |mover| mover.bind(&these(&[ONE]), &[])).end.unwrap_err();
        assert!(why.contains("drivers_probe: No such file"), "{why}");
        fs::remove_file(tree.path(format!("sys/bus/pci/devices/{ONE}/driver"))).unwrap();
        let why = run(&tree, patience, |mover| mover.reset(&these(&[ONE]))).end.unwrap_err();
        assert!(why.contains("no driver has it now"), "{why}");
    }

    #[test]
    fn modules_are_loaded_first() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1").with_kernel();
        for folder in ["sys/module/vfio_pci", "sys/bus/pci/drivers/nvme"] {
            fs::rename(tree.path(folder), tree.path("away")).unwrap();
            let choice = these(&[ONE]);
            let refused = match folder {
                "sys/module/vfio_pci" => run(&tree, PATIENCE, |mover| mover.bind(&choice, &[])),
                _ => {
                    tree.add_function(TWO, "0x010802", "vfio-pci", 8);
                    run(&tree, PATIENCE, |mover| mover.reset(&these(&[TWO])))
                }
            };
            assert!(refused.said.starts_with("modprobe "), "{}", refused.said);
            assert!(refused.end.unwrap_err().contains("not in a test"));
            fs::rename(tree.path("away"), tree.path(folder)).unwrap();
        }
        assert_eq!(driver(&tree, ONE).as_deref(), Some("nvme"), "untouched");
        fs::remove_dir(tree.path("sys/module/vfio_pci")).unwrap();
        let able = System { modprobe: |_, _| Ok(()), ..tree.system() };
        let bound = run_on(&able, PATIENCE, |mover| mover.bind(&these(&[ONE]), &[]));
        assert!(bound.end.is_ok() && bound.said.contains("modprobe vfio-pci\n"), "{}", bound.said);
    }

    #[test]
    fn without_an_iommu_nothing_is_bound() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1").with_kernel();
        fs::remove_dir_all(tree.path("sys/class/iommu")).unwrap();
        let refused = run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &[]));
        let why = refused.end.unwrap_err();
        assert!(why.contains("no IOMMU") && refused.said.is_empty(), "{why} {}", refused.said);
        // VFIO was told to do without.
        tree.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        assert_eq!(run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &[])).end, Ok(()));
    }

    #[test]
    fn a_group_that_is_not_free_yet_is_told_after_the_move() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1").with_kernel();
        tree.add_drive("0000:01:00.1", "nvme1", "S2", 7);
        let half = run(&tree, PATIENCE, |mover| mover.bind(&these(&[ONE]), &[]));
        assert!(half.end.is_ok() && half.said.contains("still in the way: its IOMMU group 7"), "{}", half.said);
        assert!(half.said.contains("doorbell setup bind 0000:01:00.1"), "{}", half.said);
        let whole = run(&tree, PATIENCE, |mover| mover.bind(&these(&["0000:01:00.1"]), &[]));
        assert!(!whole.said.contains("in the way"), "{}", whole.said);
    }

    #[test]
    fn what_is_no_nvme_device_is_left_alone() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        tree.add_function("0000:03:00.0", "0x010601", "ahci", 9);
        for (choice, why) in [
            (these(&[ONE, "0000:03:00.0"]), "0000:03:00.0 is no NVMe device"),
            (these(&["0000:04:00.0"]), "no PCI function 0000:04:00.0"),
            (these(&[]), "which devices?"),
        ] {
            for refused in [
                run(&tree, PATIENCE, |mover| mover.bind(&choice, &[])),
                run(&tree, PATIENCE, |mover| mover.reset(&choice)),
            ] {
                assert!(refused.said.is_empty(), "{}", refused.said);
                let said = refused.end.unwrap_err();
                assert!(said.contains(why), "{said}");
            }
        }
        assert!(run(&Tree::new(), PATIENCE, |mover| mover.bind(&ALL, &[])).end.unwrap_err().contains("no NVMe device"));
    }

    #[test]
    fn huge_pages_are_set_aside_and_counted() {
        let tree = Tree::new();
        let choice = Choice { addresses: Vec::new(), all: false, hugepages: Some(64) };
        let missing = run(&tree, PATIENCE, |mover| mover.bind(&choice, &[]));
        assert!(missing.end.unwrap_err().contains("no huge pages of 2 MiB"));
        for file in ["nr_hugepages", "free_hugepages"] {
            tree.write(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}"), "0\n");
        }
        let set = run(&tree, PATIENCE, |mover| mover.bind(&choice, &[]));
        assert_eq!(set.end, Ok(()));
        assert!(set.said.starts_with("64 to ") && set.said.ends_with("nr_hugepages\n"), "{}", set.said);
        assert_eq!(tree.read("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "64");
    }
}
