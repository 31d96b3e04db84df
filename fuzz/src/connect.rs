//! Connect with every field free: 64 bytes of command, then its data. Whatever is accepted must be acceptable.

use doorbell_spec::{
    command::{Command, SglDescriptor},
    fabrics::{ConnectData, ConnectRequest},
    nqn::DISCOVERY_NQN,
    tcp::IcReq,
};
use doorbell_subsystem::Unplugged;
use doorbell_tcp::{Digests, Role, Sender};
use zerocopy::FromBytes;

use crate::controller::{Answers, NQN, with_bench};

/// The body.
pub fn run(data: &[u8]) {
    let mut bytes = [0; size_of::<Command>() + size_of::<ConnectData>()];
    let given = data.len().min(bytes.len());
    bytes[..given].copy_from_slice(&data[..given]);
    let (mut command, data) = Command::read_from_prefix(&bytes).expect("64 bytes of command");
    // Cutting the data is left to the input: a short one is sent short.
    let len = given.saturating_sub(size_of::<Command>());
    let data = &data[..len];
    command.set_sgl(SglDescriptor::in_capsule(0, len as u32));

    let (mut stream, mut said) = (Vec::new(), Vec::new());
    let mut sender = Sender::new(Role::Host);
    sender.initialize(&IcReq::new(0, 0, 0));
    sender.unload(None, &mut stream);
    let initialize = stream.len();
    match data {
        [] => sender.command(&command, &[]),
        data => sender.command_with_bytes(&command, data),
    }
    sender.unload(None, &mut stream);
    with_bench(|bench| {
        let before = bench.target.free_frames();
        let mut line = Unplugged::new();
        let (first, second) = stream.split_at(initialize);
        line.receive(&mut bench.target, first, &mut said).expect("an honest ICReq");
        said.clear();
        let received = line.receive(&mut bench.target, second, &mut said);
        line.close(&mut bench.target);
        assert_eq!(bench.target.free_frames(), before, "frames were lost");
        let answers = Answers::read(&said, Digests::default()).completions;
        received.expect("the stream is well-formed");
        let [answer] = answers[..] else { panic!("{} answers to one command", answers.len()) };
        assert_eq!(answer.cid, command.cid);
        if answer.status().is_success() {
            let request = ConnectRequest::parse(&command);
            let data = ConnectData::read_from_bytes(data).expect("what was accepted has all its data");
            let known = data.subnqn().is_ok_and(|name| [NQN, DISCOVERY_NQN].contains(&name));
            assert!(known && data.hostnqn().is_ok() && data.hostid != [0; 16], "{data:?}");
            assert!(request.recfmt == 0 && request.sqsize > 0, "{request:?}");
        }
    });
}
