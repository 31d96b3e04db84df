use std::sync::Arc;

use doorbell_spec::{
    command::{self, NvmOpcode, control::*},
    protection::Guard,
};

use super::*;
use crate::frames::{FrameStore, LocalFrames};

const BLOCK: u32 = 512;
const SLBA: u64 = 5;

struct Bench {
    blocks: FormattedBlocks,
    pool: Pool,
}

impl Bench {
    fn new(metadata: Metadata) -> Self {
        let pool = Pool::new(LocalFrames::new(Arc::new(FrameStore::new(0, 2048).unwrap())));
        Self { blocks: FormattedBlocks::open(4096, BLOCK, metadata).unwrap(), pool }
    }

    fn protected(kind: u8, guard: Guard, size: u16, extended: bool) -> Self {
        let storage_bits = if guard == Guard::Crc32c { 48 } else { 0 };
        let format = Format::new(kind, guard, storage_bits, size, false).unwrap();
        Self::new(Metadata { size, extended, protection: Some(format) })
    }

    fn format(&self) -> Format {
        self.blocks.metadata.protection.unwrap()
    }

    /// A command with the tags that its type wants.
    fn command(&self, opcode: NvmOpcode, count: u32, control: u16) -> Command {
        let mut command = command::read(1, SLBA, count, control);
        command.opc = opcode.0;
        command.cdw14 = (SLBA as u32).into();
        command.cdw15 = 0xffff_0077u32.into();
        command
    }

    fn bring(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        assert!(self.pool.frames.take(frames_for(0, bytes.len() as u32), 0, &mut frames));
        let region = self.pool.frames.store.region();
        each_part(&frames, 0, bytes.len(), |at, part| region.write(at, &bytes[part]));
        frames
    }

    fn send(&mut self, command: &Command, bytes: &[u8]) -> Outcome {
        let (data, apart) = self.blocks.admit(command).unwrap();
        assert_eq!((data + apart) as usize, bytes.len());
        let (frames, request) = (self.bring(bytes), Request::new(command));
        match NvmOpcode(command.opc) {
            NvmOpcode::WRITE => self.blocks.write(&mut self.pool, request, &frames),
            _ => self.blocks.compare(&mut self.pool, request, &frames),
        }
    }

    fn read(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let mut found = Found::default();
        let outcome = self.blocks.read(&mut self.pool, Request::new(command), &mut found);
        if outcome != SUCCESS {
            assert!(found.frames.is_empty());
            let Outcome::Done(status) = outcome else { panic!("{outcome:?}") };
            return Err(status);
        }
        let mut bytes = Vec::new();
        for range in &found.ranges {
            let from = bytes.len();
            bytes.resize(from + range.len as usize, 0);
            self.pool.frames.store.region().read(range.offset, &mut bytes[from..]);
        }
        found.clear(&mut self.pool);
        Ok(bytes)
    }

    /// Changes a byte of a stored block, as a medium might.
    fn flip(&self, block: u64, at: usize) {
        let (mut byte, at) = ([0], self.blocks.at(SLBA + block) + at as u64);
        self.blocks.region.read(at, &mut byte);
        self.blocks.region.write(at, &[byte[0] ^ 1]);
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

const ALL: u16 = PRCHK_GUARD | PRCHK_APP;

/// What PRCHK may ask for in this type.
fn checks(kind: u8) -> u16 {
    if kind == 3 { ALL } else { ALL | PRCHK_REF }
}

#[test]
fn inserted_information_is_checked_and_taken_away_again() {
    for (guard, size) in
        [(Guard::Crc16, 8), (Guard::Crc16, 64), (Guard::Crc32c, 16), (Guard::Crc64, 16), (Guard::Crc64, 64)]
    {
        for (kind, extended) in [(1, true), (2, false), (3, true)] {
            let mut bench = Bench::protected(kind, guard, size, extended);
            let stays = bench.format().guard.size() == size;
            let acting = PRACT | checks(kind);
            let moved = 20 * (BLOCK as usize + if stays { 0 } else { usize::from(size) });
            let data = bytes(moved);
            let write = bench.command(NvmOpcode::WRITE, 20, acting);
            assert_eq!(bench.send(&write, &data), SUCCESS);
            let back = bench.read(&bench.command(NvmOpcode::READ, 20, acting)).unwrap();
            if stays {
                assert_eq!(back, data, "{kind} {guard:?} {size}");
            }
            // Without the action everything comes, and is right for who looks at it.
            let whole = bench.read(&bench.command(NvmOpcode::READ, 20, checks(kind))).unwrap();
            assert_eq!(whole.len(), 20 * (BLOCK + u32::from(size)) as usize);
            let again = bench.command(NvmOpcode::WRITE, 20, checks(kind));
            assert_eq!(bench.send(&again, &whole), SUCCESS);
            for (at, status) in [
                (0, media::GUARD_CHECK_ERROR),
                (usize::from(size) - 1 + BLOCK as usize, media::REFERENCE_TAG_CHECK_ERROR),
                (
                    bench.blocks.information(&bench.format()).start + guard.bits() as usize / 8,
                    media::APPLICATION_TAG_CHECK_ERROR,
                ),
            ] {
                bench.flip(19, at);
                let read = bench.read(&bench.command(NvmOpcode::READ, 20, acting));
                match kind == 3 && status == media::REFERENCE_TAG_CHECK_ERROR {
                    true => assert!(read.is_ok(), "in type 3 nobody knows the reference tag"),
                    false => assert_eq!(read.unwrap_err(), status, "{kind} {guard:?} {size}"),
                }
                assert!(bench.read(&bench.command(NvmOpcode::READ, 19, acting)).is_ok());
                assert!(bench.read(&bench.command(NvmOpcode::READ, 20, PRACT)).is_ok(), "nothing is looked at");
                bench.flip(19, at);
            }
        }
    }
}

#[test]
fn a_write_with_one_wrong_block_changes_nothing() {
    let mut bench = Bench::protected(1, Guard::Crc16, 8, true);
    let write = bench.command(NvmOpcode::WRITE, 10, checks(1));
    let mut wrong = vec![0; 10 * 520];
    assert_eq!(
        bench.send(&write, &wrong),
        Outcome::Done(media::APPLICATION_TAG_CHECK_ERROR),
        "zeroes have a guard of zero"
    );
    let plain = bench.command(NvmOpcode::READ, 10, 0);
    let before = bench.read(&plain).unwrap();
    // Right but for the last block.
    let acting = bench.command(NvmOpcode::WRITE, 10, PRACT);
    let mut other = Bench::protected(1, Guard::Crc16, 8, true);
    assert_eq!(other.send(&acting, &bytes(5120)), SUCCESS);
    wrong = other.read(&plain).unwrap();
    wrong[9 * 520 + 3] ^= 1;
    assert_eq!(bench.send(&write, &wrong), Outcome::Done(media::GUARD_CHECK_ERROR));
    assert_eq!(bench.read(&plain).unwrap(), before);
    assert_eq!(bench.send(&bench.command(NvmOpcode::WRITE, 10, 0), &wrong), SUCCESS, "who asks for no check");
    assert_eq!(bench.read(&plain).unwrap(), wrong);
}

#[test]
fn what_nobody_has_written_is_not_checked_and_is_so_again_when_it_is_given_back() {
    let mut bench = Bench::protected(2, Guard::Crc64, 64, false);
    let read = bench.command(NvmOpcode::READ, 3, checks(2));
    let unwritten: Vec<u8> = {
        let mut metadata = [0; 64];
        metadata[48..].fill(0xff);
        [&[0; 3 * 512][..], &metadata, &metadata, &metadata].concat()
    };
    assert_eq!(bench.read(&read).unwrap(), unwritten);
    let acting = bench.command(NvmOpcode::WRITE, 3, PRACT);
    for how in ["deallocate", "write zeroes"] {
        assert_eq!(bench.send(&acting, &bytes(3 * 576)), SUCCESS);
        assert_ne!(bench.read(&read).unwrap(), unwritten);
        let zeroes = bench.command(NvmOpcode::WRITE_ZEROES, 3, 0);
        let outcome = match how {
            "deallocate" => bench.blocks.clear(SLBA, 3, &mut 0),
            _ => bench.blocks.write_zeroes(&mut bench.pool, Request::new(&zeroes), Clear::Keep, &mut 0),
        };
        assert_eq!((outcome, bench.read(&read).unwrap() == unwritten), (SUCCESS, true), "{how}");
    }
    // With the action zeroes have information of their own.
    let zeroes = Request::new(&bench.command(NvmOpcode::WRITE_ZEROES, 3, PRACT));
    assert_eq!(bench.blocks.write_zeroes(&mut bench.pool, zeroes, Clear::Keep, &mut 0), SUCCESS);
    let now = bench.read(&read).unwrap();
    assert!(now[..3 * 512].iter().all(|&byte| byte == 0) && now != unwritten);
    let verify = |bench: &mut Bench| {
        let command = bench.command(NvmOpcode::VERIFY, 3, checks(2));
        bench.blocks.verify(&mut bench.pool, Request::new(&command), &mut 0)
    };
    assert_eq!(verify(&mut bench), SUCCESS);
    bench.flip(2, 100);
    assert_eq!(bench.read(&read), Err(media::GUARD_CHECK_ERROR));
    assert_eq!(verify(&mut bench), Outcome::Done(media::GUARD_CHECK_ERROR));
}

#[test]
fn a_compare_looks_at_data_and_at_metadata_but_the_information() {
    let mut bench = Bench::protected(1, Guard::Crc16, 16, true);
    assert_eq!(bench.send(&bench.command(NvmOpcode::WRITE, 4, PRACT), &bytes(4 * 528)), SUCCESS);
    let mut whole = bench.read(&bench.command(NvmOpcode::READ, 4, 0)).unwrap();
    let compare = bench.command(NvmOpcode::COMPARE, 4, checks(1));
    assert_eq!(bench.send(&compare, &whole), SUCCESS);
    for (at, equal) in [(3 * 528 + 520, true), (3 * 528 + 512, false), (528, false)] {
        whole[at] ^= 1;
        let outcome = bench.send(&compare, &whole);
        assert_eq!(outcome, if equal { SUCCESS } else { Outcome::Done(media::COMPARE_FAILURE) }, "{at}");
        whole[at] ^= 1;
    }
    bench.flip(1, 0);
    assert_eq!(bench.send(&compare, &whole), Outcome::Done(media::GUARD_CHECK_ERROR));
}

#[test]
fn tags_that_cannot_be_are_refused() {
    let invalid = Err(command_specific::INVALID_PROTECTION_INFORMATION.with_dnr());
    let bench = |kind| Bench::protected(kind, Guard::Crc16, 8, true);
    let with = |tag: u32, control| {
        let mut command = command::read(1, SLBA, 1, control);
        command.cdw14 = tag.into();
        command
    };
    assert_eq!(bench(1).blocks.admit(&with(6, PRCHK_REF)), invalid);
    assert_eq!(bench(1).blocks.admit(&with(6, PRCHK_GUARD)), Ok((520, 0)));
    assert_eq!(bench(1).blocks.admit(&with(5, PRCHK_REF | PRACT)), Ok((512, 0)));
    assert_eq!(bench(2).blocks.admit(&with(6, PRCHK_REF)), Ok((520, 0)));
    assert_eq!(bench(3).blocks.admit(&with(5, PRCHK_REF)), invalid);
    let plain = Bench::new(Metadata { size: 64, extended: false, protection: None });
    assert_eq!(plain.blocks.admit(&with(9, PRACT | PRCHK_REF)), Ok((512, 64)), "nothing is protected");
}
