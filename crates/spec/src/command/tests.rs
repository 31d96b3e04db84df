use super::*;
use crate::fabrics::Fctype;
use crate::feature::{Fid, Select};
use crate::identify::{Cns, Csi};
use crate::log::Lid;
use crate::zns::{SendAction, management_send};
use proptest::prelude::*;
use std::collections::HashSet;

#[test]
fn builders_fill_the_dwords() {
    // command, opcode, nsid, cdw10, cdw11, cdw12
    let table = [
        (read(1, 0x1_0000_0002, 8, 0), 0x02, 1, 2, 1, 7),
        (write(1, 3, 1, control::FUA), 0x01, 1, 3, 0, 0x4000_0000),
        (compare(2, 0, 65536, 0), 0x05, 2, 0, 0, 0xffff),
        (write_zeroes(1, 0, 0, control::DEAC), 0x08, 1, 0, 0, 0x0200_0000),
        (verify(1, 0, 70_000, 0), 0x0c, 1, 0, 0, 0xffff),
        (write_uncorrectable(1, 5, 2), 0x04, 1, 5, 0, 1),
        (flush(NSID_ALL), 0x00, NSID_ALL, 0, 0, 0),
        (dataset_management(1, 256, dsm::AD), 0x09, 1, 255, 4, 0),
        (identify(Cns::CSI_NAMESPACE, 7, Csi::ZONED, 3), 0x06, 7, 0x0003_0005, 0x0200_0000, 0),
        (get_features(Fid::NUMBER_OF_QUEUES, Select::SAVED, 0, 0), 0x0a, 0, 0x0207, 0, 0),
        (set_features(Fid::NUMBER_OF_QUEUES, true, 0, 9), 0x09, 0, 0x8000_0007, 9, 0),
        (async_event_request(), 0x0c, 0, 0, 0, 0),
        (keep_alive(), 0x18, 0, 0, 0, 0),
        (abort(2, 9), 0x08, 0, 0x0009_0002, 0, 0),
        (create_io_cq(1, 127, 0, None), 0x05, 0, 0x007f_0001, 1, 0),
        (create_io_cq(1, 127, 0, Some(4)), 0x05, 0, 0x007f_0001, 0x0004_0003, 0),
        (create_io_sq(2, 127, 0, 1, 2), 0x01, 0, 0x007f_0002, 0x0001_0005, 0),
        (delete_io_sq(2), 0x00, 0, 2, 0, 0),
        (delete_io_cq(1), 0x04, 0, 1, 0, 0),
    ];
    for (command, opc, nsid, cdw10, cdw11, cdw12) in table {
        assert_eq!(command.opc, opc);
        assert_eq!(command.nsid.get(), nsid, "{opc:x}");
        assert_eq!(command.cdw10.get(), cdw10, "{opc:x}");
        assert_eq!(command.cdw11.get(), cdw11, "{opc:x}");
        assert_eq!(command.cdw12.get(), cdw12, "{opc:x}");
        assert_eq!(command.flags, 0);
    }
}

#[test]
fn get_log_page_splits_its_length() {
    let request = LogRequest {
        lid: Lid::DISCOVERY,
        bytes: 0x8_0000,
        offset: 0x1_0000_0400,
        rae: true,
        lsp: 0xff,
        ..LogRequest::default()
    };
    let command = get_log_page(&request);
    assert_eq!(command.cdw10.get(), 0xffff_ff70);
    assert_eq!(command.cdw11.get(), 1);
    assert_eq!(command.cdw12.get(), 0x400);
    assert_eq!(command.cdw13.get(), 1);
    let least = get_log_page(&LogRequest { bytes: 0, ..LogRequest::default() });
    assert_eq!(LogRequest::parse(&least).bytes, 4);
}

#[test]
fn directions() {
    assert_eq!(flush(1).direction(), Direction::None);
    assert_eq!(write(1, 0, 1, 0).direction(), Direction::HostToController);
    assert_eq!(read(1, 0, 1, 0).direction(), Direction::ControllerToHost);
    assert_eq!(data_direction(0x7f), Direction::Bidirectional);
    let zone = |action| management_send(1, 0, action, false).direction();
    assert_eq!(zone(SendAction::RESET), Direction::None);
    assert_eq!(zone(SendAction::SET_DESCRIPTOR_EXTENSION), Direction::HostToController);
    let mut fabrics = Command::new(fabrics::OPCODE, 0);
    for (fctype, direction) in [
        (Fctype::CONNECT, Direction::HostToController),
        (Fctype::PROPERTY_GET, Direction::None),
        (Fctype::PROPERTY_SET, Direction::None),
        (Fctype::AUTH_RECV, Direction::ControllerToHost),
        (Fctype::AUTH_SEND, Direction::HostToController),
    ] {
        fabrics.nsid.set(fctype.0.into());
        assert_eq!(fabrics.direction(), direction, "{fctype}");
    }
}

#[test]
fn opcodes_have_names_of_their_own() {
    let admin: HashSet<_> = AdminOpcode::ALL.iter().map(|code| code.name()).collect();
    let nvm: HashSet<_> = NvmOpcode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(admin.len(), AdminOpcode::ALL.len());
    assert_eq!(nvm.len(), NvmOpcode::ALL.len());
    assert!(!admin.contains("Unknown") && !nvm.contains("Unknown"));
    assert_eq!(NvmOpcode(0xc0).name(), "Unknown");
}

#[test]
fn sgl_bytes() {
    let bytes: [u8; 16] = zerocopy::transmute!(SglDescriptor::keyed(1, 0x0102_0304, 0xaabb_ccdd, true));
    assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 0xdd, 0xcc, 0xbb, 0xaa, 0x4f]);
    let mut command = read(1, 0, 1, 0);
    command.set_sgl(SglDescriptor::transport(4096));
    assert!(command.uses_sgl());
    assert_eq!(command.flags, FLAGS_SGL);
    assert_eq!(command.dptr.0[8..], [0, 0x10, 0, 0, 0, 0, 0, 0x5a]);
    assert_eq!(command.sgl().kind(), SglKind::Transport { length: 4096 });
}

fn kind() -> impl Strategy<Value = (SglDescriptor, SglKind)> {
    (0..8usize, any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(kind, address, length, key)| match kind {
        0 => (SglDescriptor::data_block(address, length), SglKind::DataBlock { address, length }),
        1 => (SglDescriptor::in_capsule(address, length), SglKind::InCapsule { offset: address, length }),
        2 => (SglDescriptor::bit_bucket(length), SglKind::BitBucket { length }),
        3 => (SglDescriptor::segment(address, length), SglKind::Segment { address, length }),
        4 => (SglDescriptor::last_segment(address, length), SglKind::LastSegment { address, length }),
        5 => (SglDescriptor::transport(length), SglKind::Transport { length }),
        _ => {
            let length = length & 0x00ff_ffff;
            let invalidate = kind == 6;
            let kind = SglKind::Keyed { address, length, key, invalidate };
            (SglDescriptor::keyed(address, length, key, invalidate), kind)
        }
    })
}

proptest! {
    #[test]
    fn sgl_round_trip((descriptor, kind) in kind()) {
        prop_assert_eq!(descriptor.kind(), kind);
        prop_assert_eq!(SglDescriptor::from(Dptr::from(descriptor)), descriptor);
    }

    #[test]
    fn prp_round_trip(prp1: u64, prp2: u64) {
        let dptr = Dptr::prp(prp1, prp2);
        prop_assert_eq!((dptr.prp1(), dptr.prp2()), (prp1, prp2));
    }

    #[test]
    fn lba_round_trip(nsid: u32, slba: u64, blocks in 1..=65536u32, control: u16) {
        let command = write(nsid, slba, blocks, control);
        prop_assert_eq!(command.slba(), slba);
        prop_assert_eq!(command.block_count(), blocks);
        prop_assert_eq!(u32::from(command.nlb()) + 1, blocks);
        prop_assert_eq!(command.control(), control);
        prop_assert_eq!(command.fua(), control & 0x4000 != 0);
    }

    #[test]
    fn dsm_round_trip(ranges in 1..=256u16, attributes: u32) {
        let command = dataset_management(1, ranges, attributes);
        prop_assert_eq!(command.range_count(), ranges);
        prop_assert_eq!(command.deallocate(), attributes & 4 != 0);
    }

    #[test]
    fn log_request_round_trip(
        lid: u8, nsid: u32, numd: u32, offset: u64, lsp in 0..128u8, lsi: u16, rae: bool, ot: bool,
        csi: u8, uuid_index in 0..128u8,
    ) {
        let bytes = (u64::from(numd) + 1) * 4;
        let request = LogRequest { lid: Lid(lid), nsid, bytes, offset, lsp, lsi, rae, ot, csi: Csi(csi), uuid_index };
        prop_assert_eq!(LogRequest::parse(&get_log_page(&request)), request);
    }

    #[test]
    fn identify_round_trip(cns: u8, nsid: u32, csi: u8, cntid: u16) {
        let request = IdentifyRequest { cns: Cns(cns), nsid, csi: Csi(csi), cntid, cnssid: 0 };
        prop_assert_eq!(IdentifyRequest::parse(&identify(Cns(cns), nsid, Csi(csi), cntid)), request);
    }

    #[test]
    fn queue_round_trip(qid: u16, qsize: u16, prp1: u64, cqid: u16, qprio in 0..4u8, vector: Option<u16>) {
        let request = QueueRequest::parse(&create_io_sq(qid, qsize, prp1, cqid, qprio));
        prop_assert_eq!((request.qid, request.qsize, request.prp1), (qid, qsize, prp1));
        prop_assert_eq!((request.cqid_or_vector, request.qprio, request.pc), (cqid, qprio, true));
        let request = QueueRequest::parse(&create_io_cq(qid, qsize, prp1, vector));
        prop_assert_eq!((request.ien, request.cqid_or_vector), (vector.is_some(), vector.unwrap_or(0)));
        prop_assert_eq!(AbortRequest::parse(&abort(qid, cqid)), AbortRequest { sqid: qid, cid: cqid });
    }

    #[test]
    fn any_bytes_parse(bytes: [[u8; 32]; 2]) {
        let command: Command = zerocopy::transmute!(bytes);
        command.sgl().kind();
        command.direction();
        let request = LogRequest::parse(&command);
        prop_assert!(request.bytes >= 4);
        QueueRequest::parse(&command);
        IdentifyRequest::parse(&command);
        prop_assert!((1..=65536).contains(&command.block_count()));
        prop_assert!((1..=256).contains(&command.range_count()));
        let _ = (command.fid(), command.select(), command.save(), command.fuse());
    }
}
