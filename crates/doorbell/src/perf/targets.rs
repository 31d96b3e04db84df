//! What is to be tested, as transport IDs: those of `-r`, or all local PCIe devices, limited by `-b`; and what the kernel has.

use doorbell_host::{TransportId, TransportType};
use doorbell_load::kernel::File;
use doorbell_platform::pci::Address;

use super::options::{Options, UsageError};

/// The transport IDs of a command line; none for the embedded target and for files alone.
///
/// # Errors
/// What is wrong with an ID, or that `-b` does not allow its device.
pub fn ids(options: &Options) -> Result<Vec<TransportId>, String> {
    let parse =
        |text: &String| text.parse::<TransportId>().map_err(|why| UsageError::with_usage(why.to_string()).to_string());
    let mut ids = options.transport_ids.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() && options.embedded.is_none() && options.files.is_empty() {
        ids.push(TransportId::default());
    }
    allow(ids, &options.environment.allowed)
}

/// The files and devices of the kernel, opened.
///
/// # Errors
/// What is in the way of the first that cannot be tested.
pub fn files(options: &Options) -> Result<Vec<File>, String> {
    options.files.iter().map(|path| File::open(path, options.kernel)).collect()
}

/// Puts the allowed devices in the place of all of them, and refuses others.
fn allow(ids: Vec<TransportId>, allowed: &[Address]) -> Result<Vec<TransportId>, String> {
    if allowed.is_empty() {
        return Ok(ids);
    }
    let mut limited = Vec::new();
    for id in ids {
        if id.trtype != TransportType::Pcie {
            limited.push(id);
        } else if id.traddr.is_empty() {
            let one = |address: &Address| TransportId { traddr: address.to_string(), ..id.clone() };
            limited.extend(allowed.iter().map(one));
        } else {
            let address: Address = id.traddr.parse().map_err(|why| format!("-r \"{id}\": {why}"))?;
            if !allowed.contains(&address) {
                let allowed: Vec<String> = allowed.iter().map(Address::to_string).collect();
                return Err(format!("-r \"{id}\": -b (--allowed-pci-addr) allows only {}", allowed.join(", ")));
            }
            limited.push(id);
        }
    }
    Ok(limited)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(ids: &[&str], allowed: &[&str]) -> Result<Vec<String>, String> {
        let ids = ids.iter().map(|id| id.parse().unwrap()).collect();
        let allowed: Vec<Address> = allowed.iter().map(|address| address.parse().unwrap()).collect();
        allow(ids, &allowed)
            .map(|ids| ids.into_iter().map(|id| format!("{} {}", id.trtype.word(), id.traddr)).collect())
    }

    #[test]
    fn only_allowed_devices_are_used_and_others_named() {
        let all = ["trtype:PCIe", "trtype:TCP traddr:10.0.0.1"];
        assert_eq!(allowed(&all, &[]).unwrap(), ["PCIE ", "TCP 10.0.0.1"]);
        assert_eq!(
            allowed(&all, &["5e:0", "5f:0.1"]).unwrap(),
            ["PCIE 0000:5e:00.0", "PCIE 0000:5f:00.1", "TCP 10.0.0.1"]
        );
        assert_eq!(allowed(&["traddr:5e.0"], &["0000:5e:00.0"]).unwrap(), ["PCIE 5e.0"], "however it is written");
        let refused = allowed(&["traddr:5e:00.1"], &["5e:00.0", "5f:0"]).unwrap_err();
        assert!(refused.ends_with("allows only 0000:5e:00.0, 0000:5f:00.0"), "{refused}");
        assert!(allowed(&["traddr:nowhere"], &["5e:0"]).unwrap_err().contains("no PCI address"));
    }
}
