//! Which blocks are wrong of those that a controller found wrong: it says that a check failed, but neither of which block nor what it
//! found. So they are read again after the load, without its checks, and looked at here.

use doorbell_platform::Region;
use doorbell_queue::protection::Blocks;
use doorbell_spec::status::{Status, media};

use crate::{
    metadata::{Carried, Protect, Protector},
    plan::Shape,
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

/// Reads blocks again by `stored`, as [`Port::stored`](crate::port::Port::stored), and tells what is wrong with them.
pub(crate) fn take(
    shape: Shape,
    reads: &[(u64, u32)],
    core: usize,
    stored: impl Fn(u64, u32) -> Result<(Vec<u8>, Vec<u8>), String>,
) -> Vec<String> {
    let path = &shape.path;
    let protect = Protect { by_controller: false, ..shape.protect };
    let carried = Carried::of(&Shape { protect, ..shape.clone() });
    let Some(mut protector) = Protector::new(&carried, 0) else { return Vec::new() };
    let mut look = |&(slba, count): &(u64, u32)| {
        let (data, metadata) = stored(slba, count)?;
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

#[cfg(test)]
mod tests {
    use doorbell_spec::{
        command::control::PRCHK_REF,
        protection::{Format, Guard},
    };

    use super::*;
    use crate::plan::tests::shape;

    #[test]
    fn what_a_second_look_finds_is_told_or_that_it_finds_nothing() {
        let shape = Shape {
            metadata_size: 8,
            protection: Some(Format::new(1, Guard::Crc16, 0, 8, false).unwrap()),
            protect: Protect { by_controller: true, checks: PRCHK_REF },
            ..shape()
        };
        // Blocks whose reference tags are right, but for one of another place.
        let tags = |slba: u64, moved: u64| {
            let one = move |lba: u64| [0, 0, 0, 0, 0, 0, 0, if lba == moved { 99 } else { lba as u8 }];
            (vec![0; 8 * 512], (slba..slba + 8).flat_map(one).collect())
        };
        let reads = [(8, 8), (16, 8)];
        let look = |moved| take(shape.clone(), &reads, 2, |slba, _| Ok(tags(slba, moved)));
        let found = look(19);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[1], "ns from core 2: the reference tag of the block at LBA 19 is 63h, not 13h");
        assert!(look(1000)[0].ends_with("nothing is when it is read again"), "it was wrong on its way");
        let gone = take(shape.clone(), &reads, 2, |_, _| Err("it is gone".into()));
        assert!(gone.len() == 1 && gone[0].ends_with("to see what is: it is gone"), "{gone:?}");
        assert!(take(shape, &[], 2, |_, _| Err("nobody asked".into())).is_empty());
    }

    #[test]
    fn a_read_is_kept_once() {
        let mut reads = Vec::new();
        (0..100).for_each(|slba| note(&mut reads, (slba / 2, 1)));
        assert_eq!(reads, (0..32).map(|slba| (slba, 1)).collect::<Vec<_>>());
    }
}
