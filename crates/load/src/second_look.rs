//! Which blocks are wrong of those that a controller found wrong: it says that a check failed, but neither of which block nor what it
//! found. So they are read again after the load, without its checks, and looked at here.

use doorbell_platform::Region;
use doorbell_queue::protection::Blocks;
use doorbell_spec::status::{Status, media};

use crate::{
    metadata::{Carried, Protect, Protector},
    plan::Shape,
    port::Port,
};

/// Most reads of a context that are looked at again.
const MOST: usize = 32;

/// Whether a status says that protection information is not what it should be.
pub(crate) fn is_cause(status: Status) -> bool {
    [media::GUARD_CHECK_ERROR, media::APPLICATION_TAG_CHECK_ERROR, media::REFERENCE_TAG_CHECK_ERROR]
        .iter()
        .any(|&check| status.is(check))
}

/// Keeps an LBA and a number of blocks, once.
#[cold]
pub(crate) fn note(reads: &mut Vec<(u64, u32)>, read: (u64, u32)) {
    if reads.len() < MOST && !reads.contains(&read) {
        reads.push(read);
    }
}

/// Reads blocks again, each with their number, and tells what is wrong with them.
pub(crate) fn take(port: &dyn Port, protect: Protect, reads: &[(u64, u32)], path: &str, core: usize) -> Vec<String> {
    let carried = Carried::of(&Shape { protect: Protect { by_controller: false, ..protect }, ..port.shape() });
    let Some(mut protector) = Protector::new(&carried, 0) else { return Vec::new() };
    let mut look = |&(slba, count): &(u64, u32)| {
        let (data, metadata) = port.stored(slba, count)?;
        let region = Region::new(data.len() + metadata.len()).map_err(|why| why.to_string())?;
        let apart = data.len() as u64;
        region.write(0, &data);
        region.write(apart, &metadata);
        protector.look(&region, Blocks { data: 0, metadata: apart, count }, slba);
        Ok::<_, String>(())
    };
    // What cannot be read once is not tried again and again.
    let looked = reads.iter().try_for_each(&mut look);
    let mut found = protector.problems(path, core);
    match looked {
        Err(why) => found.push(format!(
            "{path} from core {core}: blocks that the controller found wrong could not be read again to see what is: {why}"
        )),
        Ok(()) if found.is_empty() && !reads.is_empty() => {
            found.push(format!("{path} from core {core}: of what the controller found wrong nothing is when it is read again"));
        }
        Ok(()) => {}
    }
    found
}
