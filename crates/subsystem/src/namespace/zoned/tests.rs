use std::sync::Arc;

use super::*;
use crate::{
    config::{Backend, NamespaceConfig},
    frames::{FrameStore, LocalFrames, ZERO_FRAMES, place},
    namespace::Namespace,
};

const ZONE: u64 = 8;
const CAPACITY: u64 = 6;
const ZONES: u64 = 6;

/// Six zones of eight blocks, of which six can be written; the last zone is read only.
struct Bench {
    namespace: Namespace,
    pool: Pool,
}

impl Bench {
    fn new(max_open: Option<u32>, max_active: Option<u32>) -> Self {
        let zoning =
            Zoning { zone_size: ZONE * BLOCK, zone_capacity: CAPACITY * BLOCK, max_open, max_active, read_only: 1 };
        let config =
            NamespaceConfig { backend: Backend::Zoned { size: ZONES * ZONE * BLOCK, zoning }, block_size: 4096 };
        let store = Arc::new(FrameStore::new(Namespace::frames(&config), 1024).unwrap());
        let namespace = Namespace::open(&config, "nqn.2014-08.org.example:test", 1, ZERO_FRAMES).unwrap();
        Self { namespace, pool: Pool::new(LocalFrames::new(store)) }
    }

    fn zones(&self) -> &ZonedBlocks {
        self.namespace.zones().unwrap()
    }

    fn frames(&mut self, blocks: u64, fill: u8) -> Vec<Frame> {
        let mut frames = Vec::new();
        assert!(self.pool.frames.take(blocks as usize, 0, &mut frames));
        let region = self.pool.frames.store.region();
        frames.iter().for_each(|&frame| region.fill(place(frame).offset, BLOCK as usize, fill));
        frames
    }

    fn write(&mut self, block: u64, blocks: u64, fill: u8) -> Status {
        let mut frames = self.frames(blocks, fill);
        let len = (blocks * BLOCK) as u32;
        let outcome = self.namespace.write(&mut self.pool, block * BLOCK, len, &mut frames, &mut 0);
        frames.drain(..).for_each(|frame| self.pool.frames.release(frame));
        done(outcome)
    }

    fn append(&mut self, block: u64, blocks: u64, fill: u8) -> Result<u64, Status> {
        let mut frames = self.frames(blocks, fill);
        let zones = self.namespace.zones().unwrap();
        let at = zones.append(&mut self.pool, block * BLOCK, (blocks * BLOCK) as u32, &mut frames);
        frames.drain(..).for_each(|frame| self.pool.frames.release(frame));
        at
    }

    fn zeroes(&mut self, block: u64, blocks: u64) -> Status {
        let (at, len) = (block * BLOCK, blocks * BLOCK);
        done(self.namespace.clear(&mut self.pool, at, len, Clear::Keep, &mut 0))
    }

    /// The first byte of each block.
    fn read(&mut self, block: u64, blocks: u64) -> Result<Vec<u8>, Status> {
        let mut found = Found::default();
        let outcome = self.namespace.read(&mut self.pool, block * BLOCK, (blocks * BLOCK) as u32, &mut found);
        let mut bytes = vec![0; (blocks * BLOCK) as usize];
        let mut rest = &mut bytes[..];
        for range in &found.ranges {
            let (part, behind) = rest.split_at_mut(range.len as usize);
            self.pool.frames.store.region().read(range.offset, part);
            rest = behind;
        }
        found.clear(&mut self.pool);
        let status = done(outcome);
        if status.is_success() { Ok(bytes.iter().step_by(BLOCK as usize).copied().collect()) } else { Err(status) }
    }

    fn manage(&self, zone: u64, action: SendAction) -> Status {
        self.zones().manage(zone * ZONE, action, false).err().unwrap_or(Status::SUCCESS)
    }

    fn manage_all(&self, action: SendAction) -> Status {
        self.zones().manage(0, action, true).err().unwrap_or(Status::SUCCESS)
    }

    fn states(&self) -> Vec<ZoneState> {
        self.zones().report(0, Reporting::EVERY, usize::MAX).1.iter().map(ZoneDescriptor::state).collect()
    }

    fn state(&self, zone: usize) -> ZoneState {
        self.states()[zone]
    }

    fn pointer(&self, zone: u64) -> u64 {
        self.zones().report(zone * ZONE, Reporting::EVERY, 1).1[0].wp.get()
    }

    /// Brings the first zone, or the last where it must, to a state.
    fn bring(&mut self, state: ZoneState) -> u64 {
        let status = match state {
            ZoneState::IMPLICITLY_OPENED => self.write(0, 1, 1),
            ZoneState::EXPLICITLY_OPENED => self.manage(0, SendAction::OPEN),
            ZoneState::CLOSED => {
                self.manage(0, SendAction::OPEN);
                self.manage(0, SendAction::CLOSE)
            }
            ZoneState::FULL => self.manage(0, SendAction::FINISH),
            ZoneState::OFFLINE => self.manage(5, SendAction::OFFLINE),
            _ => Status::SUCCESS,
        };
        assert_eq!(status, Status::SUCCESS);
        let zone = if [ZoneState::READ_ONLY, ZoneState::OFFLINE].contains(&state) { 5 } else { 0 };
        assert_eq!(self.state(zone), state);
        zone as u64
    }
}

fn done(outcome: Outcome) -> Status {
    let Outcome::Done(status) = outcome else { panic!("{outcome:?}") };
    status
}

const BAD_TRANSITION: Status = command_specific::INVALID_ZONE_STATE_TRANSITION.with_dnr();

#[test]
fn every_action_on_every_state_does_what_the_specification_says() {
    use ZoneState as S;
    let actions = [SendAction::OPEN, SendAction::CLOSE, SendAction::FINISH, SendAction::RESET, SendAction::OFFLINE];
    let table = [
        (S::EMPTY, [Some(S::EXPLICITLY_OPENED), None, Some(S::FULL), Some(S::EMPTY), None]),
        (S::IMPLICITLY_OPENED, [Some(S::EXPLICITLY_OPENED), Some(S::CLOSED), Some(S::FULL), Some(S::EMPTY), None]),
        (S::EXPLICITLY_OPENED, [Some(S::EXPLICITLY_OPENED), Some(S::CLOSED), Some(S::FULL), Some(S::EMPTY), None]),
        (S::CLOSED, [Some(S::EXPLICITLY_OPENED), Some(S::CLOSED), Some(S::FULL), Some(S::EMPTY), None]),
        (S::FULL, [None, None, Some(S::FULL), Some(S::EMPTY), None]),
        (S::READ_ONLY, [None, None, None, None, Some(S::OFFLINE)]),
        (S::OFFLINE, [None, None, None, None, Some(S::OFFLINE)]),
    ];
    for (state, row) in table {
        for (action, next) in actions.into_iter().zip(row) {
            let mut bench = Bench::new(Some(1), Some(1));
            let zone = bench.bring(state);
            let status = bench.manage(zone, action);
            assert_eq!(status, if next.is_some() { Status::SUCCESS } else { BAD_TRANSITION }, "{action} {state}");
            assert_eq!(bench.state(zone as usize), next.unwrap_or(state), "{action} {state}");
            // What it held is free again, or not.
            let (free, active) = (bench.write(ZONE, 1, 1), next.unwrap_or(state).is_active());
            assert_eq!(
                free,
                if active { command_specific::TOO_MANY_ACTIVE_ZONES } else { Status::SUCCESS },
                "{action} {state}"
            );
        }
    }
}

#[test]
fn a_zone_is_written_at_its_pointer_until_it_is_full() {
    let mut bench = Bench::new(None, None);
    assert_eq!(bench.write(1, 1, 1), command_specific::ZONE_INVALID_WRITE.with_dnr());
    assert_eq!(bench.write(0, 2, 1), Status::SUCCESS);
    assert_eq!((bench.state(0), bench.pointer(0)), (ZoneState::IMPLICITLY_OPENED, 2));
    for behind in [0, 1, 3] {
        assert_eq!(bench.write(behind, 1, 9), command_specific::ZONE_INVALID_WRITE.with_dnr(), "{behind}");
    }
    assert_eq!(bench.write(2, 5, 9), command_specific::ZONED_BOUNDARY_ERROR.with_dnr(), "beyond the capacity");
    assert_eq!(bench.write(7, 2, 9), command_specific::ZONED_BOUNDARY_ERROR.with_dnr(), "into the next zone");
    assert_eq!(bench.write(2, 4, 2), Status::SUCCESS);
    assert_eq!((bench.state(0), bench.pointer(0)), (ZoneState::FULL, u64::MAX));
    assert_eq!(bench.write(6, 1, 9), command_specific::ZONE_IS_FULL.with_dnr());
    assert_eq!(bench.read(0, 8), Ok(vec![1, 1, 2, 2, 2, 2, 0, 0]));
    assert_eq!(bench.state(1), ZoneState::EMPTY, "nobody else was touched");
}

#[test]
fn appends_go_to_the_pointer_and_say_where_that_was() {
    let mut bench = Bench::new(None, None);
    assert_eq!(bench.append(ZONE, 2, 1), Ok(ZONE));
    assert_eq!(bench.append(ZONE, 3, 2), Ok(ZONE + 2));
    assert_eq!(bench.append(ZONE + 1, 1, 9), Err(generic::INVALID_FIELD.with_dnr()), "not where a zone begins");
    assert_eq!(bench.append(ZONE, 2, 9), Err(command_specific::ZONED_BOUNDARY_ERROR.with_dnr()));
    assert_eq!(bench.append(ZONE, 1, 3), Ok(ZONE + 5));
    assert_eq!(bench.append(ZONE, 1, 9), Err(command_specific::ZONE_IS_FULL.with_dnr()));
    assert_eq!(bench.append(5 * ZONE, 1, 9), Err(command_specific::ZONE_IS_READ_ONLY.with_dnr()));
    assert_eq!(bench.read(ZONE, 6), Ok(vec![1, 1, 2, 2, 2, 3]));
}

#[test]
fn what_lies_behind_the_pointer_reads_as_zeroes() {
    let mut bench = Bench::new(None, None);
    bench.write(0, 4, 7);
    assert_eq!(bench.manage(0, SendAction::RESET), Status::SUCCESS);
    assert_eq!((bench.state(0), bench.pointer(0)), (ZoneState::EMPTY, 0));
    assert_eq!(bench.read(0, 4), Ok(vec![0; 4]), "it was reset");
    bench.write(0, 1, 8);
    assert_eq!(bench.read(0, 4), Ok(vec![8, 0, 0, 0]), "nothing comes back");
    bench.manage(0, SendAction::FINISH);
    assert_eq!(bench.read(0, 4), Ok(vec![8, 0, 0, 0]), "nor by finishing");
    assert_eq!(bench.read(7, 2), Err(command_specific::ZONED_BOUNDARY_ERROR.with_dnr()));
    let frames = [bench.frames(1, 8), bench.frames(3, 0)].concat();
    let equals = |bench: &mut Bench, at| done(bench.namespace.compare(&mut bench.pool, at, 4 * BLOCK as u32, &frames));
    assert_eq!(equals(&mut bench, 0), Status::SUCCESS);
    assert_eq!(equals(&mut bench, ZONE * BLOCK), doorbell_spec::status::media::COMPARE_FAILURE);
}

#[test]
fn zeroes_are_written_in_order_and_deallocating_moves_no_pointer() {
    let mut bench = Bench::new(None, None);
    assert_eq!(bench.zeroes(1, 1), command_specific::ZONE_INVALID_WRITE.with_dnr());
    bench.write(0, 2, 7);
    assert_eq!(bench.zeroes(2, 2), Status::SUCCESS);
    assert_eq!(bench.write(4, 1, 7), Status::SUCCESS);
    assert_eq!(bench.read(0, 6), Ok(vec![7, 7, 0, 0, 7, 0]));
    let outcome = bench.namespace.clear(&mut bench.pool, 0, 2 * BLOCK, Clear::Hint, &mut 0);
    assert_eq!((done(outcome), bench.pointer(0)), (Status::SUCCESS, 5));
    assert_eq!(bench.read(0, 6), Ok(vec![0, 0, 0, 0, 7, 0]));
    assert_eq!(bench.zeroes(5 * ZONE, 1), command_specific::ZONE_IS_READ_ONLY.with_dnr());
}

#[test]
fn zones_that_are_read_only_are_read_and_offline_ones_are_not() {
    let mut bench = Bench::new(None, None);
    assert_eq!(bench.write(5 * ZONE, 1, 1), command_specific::ZONE_IS_READ_ONLY.with_dnr());
    assert_eq!(bench.read(5 * ZONE, 1), Ok(vec![0]));
    bench.manage(5, SendAction::OFFLINE);
    assert_eq!(bench.write(5 * ZONE, 1, 1), command_specific::ZONE_IS_OFFLINE.with_dnr());
    assert_eq!(bench.read(5 * ZONE, 1), Err(command_specific::ZONE_IS_OFFLINE.with_dnr()));
}

#[test]
fn a_zone_opened_by_a_write_gives_way_where_one_opened_by_command_does_not() {
    use ZoneState as S;
    let mut bench = Bench::new(Some(2), Some(3));
    bench.write(0, 1, 1);
    bench.write(ZONE, 1, 1);
    bench.write(2 * ZONE, 1, 1);
    assert_eq!(
        bench.states()[..3],
        [S::CLOSED, S::IMPLICITLY_OPENED, S::IMPLICITLY_OPENED],
        "the first opened goes first"
    );
    assert_eq!(bench.write(3 * ZONE, 1, 1), command_specific::TOO_MANY_ACTIVE_ZONES);
    assert_eq!(bench.manage(3, SendAction::OPEN), command_specific::TOO_MANY_ACTIVE_ZONES);
    assert_eq!(
        (bench.manage(0, SendAction::OPEN), bench.manage(1, SendAction::OPEN)),
        (Status::SUCCESS, Status::SUCCESS)
    );
    assert_eq!(bench.states()[..3], [S::EXPLICITLY_OPENED, S::EXPLICITLY_OPENED, S::CLOSED]);
    assert_eq!(bench.write(2 * ZONE + 1, 1, 1), command_specific::TOO_MANY_OPEN_ZONES);
    assert_eq!(bench.manage(2, SendAction::OPEN), command_specific::TOO_MANY_OPEN_ZONES);
    bench.manage(0, SendAction::CLOSE);
    assert_eq!(bench.write(2 * ZONE + 1, 1, 1), Status::SUCCESS, "there is room again");
    bench.write(1, 5, 1);
    assert_eq!(bench.states()[..3], [S::FULL, S::EXPLICITLY_OPENED, S::CLOSED], "a full zone holds nothing");
    assert_eq!(bench.write(3 * ZONE, 1, 1), Status::SUCCESS);
}

#[test]
fn all_zones_that_an_action_is_for_can_be_selected() {
    use ZoneState as S;
    let mut bench = Bench::new(Some(2), None);
    (0..3).for_each(|zone| assert_eq!(bench.write(zone * ZONE, 1, 1), Status::SUCCESS));
    bench.manage(3, SendAction::FINISH);
    assert_eq!(bench.manage_all(SendAction::CLOSE), Status::SUCCESS);
    let closed = [S::CLOSED, S::CLOSED, S::CLOSED, S::FULL, S::EMPTY, S::READ_ONLY];
    assert_eq!(bench.states(), closed);
    assert_eq!(bench.manage_all(SendAction::OPEN), command_specific::TOO_MANY_OPEN_ZONES);
    assert_eq!(bench.states(), closed, "all or none");
    bench.manage(0, SendAction::RESET);
    assert_eq!(bench.manage_all(SendAction::OPEN), Status::SUCCESS);
    assert_eq!(bench.states()[..3], [S::EMPTY, S::EXPLICITLY_OPENED, S::EXPLICITLY_OPENED]);
    assert_eq!(bench.manage_all(SendAction::FINISH), Status::SUCCESS);
    assert_eq!(bench.states()[..4], [S::EMPTY, S::FULL, S::FULL, S::FULL], "not the empty ones");
    assert_eq!(bench.manage_all(SendAction::RESET), Status::SUCCESS);
    assert_eq!(bench.manage_all(SendAction::OFFLINE), Status::SUCCESS);
    assert_eq!(bench.states(), [S::EMPTY, S::EMPTY, S::EMPTY, S::EMPTY, S::EMPTY, S::OFFLINE]);
}

#[test]
fn reports_list_what_they_are_asked_for() {
    let mut bench = Bench::new(None, None);
    bench.write(2 * ZONE, 3, 1);
    bench.manage(4, SendAction::FINISH);
    let (count, listed) = bench.zones().report(ZONE, Reporting::EVERY, 2);
    assert_eq!((count, listed.len()), (5, 2), "from the second on, two of five");
    assert_eq!((listed[0].zslba.get(), listed[0].zcap.get(), listed[0].zt), (ZONE, CAPACITY, 2));
    assert_eq!((listed[1].zslba.get(), listed[1].wp.get()), (2 * ZONE, 2 * ZONE + 3));
    assert_eq!(bench.zones().report(2 * ZONE + 5, Reporting::IMPLICITLY_OPENED, 9).1.len(), 1, "any block of the zone");
    assert_eq!(bench.zones().report(0, Reporting::FULL, 9).1[0].zslba.get(), 4 * ZONE);
    assert_eq!(bench.zones().report(0, Reporting::EMPTY, 9).0, 3);
    assert_eq!(bench.zones().report(0, Reporting::CLOSED, 9), (0, Vec::new()));
}
