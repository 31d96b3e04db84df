//! Data that is sent from where it lies: what arrives, and when the memory is back. Over loopback, where the kernel copies in the
//! end, but in the same way and with the same messages.

use std::{
    io::{ErrorKind, Read},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use doorbell_platform::{Range, Region, socket};
use doorbell_spec::{completion::Completion, status::Status};
use doorbell_tcp::{DataPdu, Digests, Role, Sender, ZeroCopyCounts, is_local};

const PATIENCE: Duration = Duration::from_secs(20);

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    left.set_nonblocking(true).unwrap();
    (left, listener.accept().unwrap().0)
}

fn region() -> Region {
    let region = Region::new(1 << 20).unwrap();
    (0..region.len() as u64).step_by(8).for_each(|at| region.write(at, &at.to_le_bytes()));
    region
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn queue(sender: &mut Sender) {
    sender.use_agreement(Digests { header: true, data: true }, 0);
    // At the threshold, below it, and above it in pieces that lie apart.
    for (at, pieces) in [(0, &[4096, 4096][..]), (1, &[8191]), (2, &[1, 30_000, 2, 100_000])] {
        let mut start = 0;
        let data: Vec<Range> = pieces
            .iter()
            .map(|&len| {
                start += 150_000;
                Range { offset: start, len }
            })
            .collect();
        sender.data(DataPdu { cccid: at, ttag: 0, datao: 0, last: true, success: false }, &data);
        sender.response(&Completion::new(at, 1, Status::SUCCESS, 0));
    }
}

#[test]
fn what_is_sent_without_a_copy_is_the_same_and_its_memory_comes_back() {
    let region = region();
    let mut plain = (Sender::new(Role::Controller), Vec::new());
    queue(&mut plain.0);
    plain.0.unload(Some(&region), &mut plain.1);

    let (left, mut right) = pair();
    let mut sender = Sender::new(Role::Controller);
    sender.use_zero_copy(left.as_fd(), 8192).unwrap();
    queue(&mut sender);
    let mut got = vec![0; plain.1.len()];
    thread::scope(|scope| {
        let read = scope.spawn(|| right.read_exact(&mut got));
        until("the socket takes all", || sender.send(left.as_fd(), Some(&region)).unwrap());
        assert!(sender.is_empty() && !sender.is_idle(), "not before the system says so");
        read.join().unwrap().unwrap();
    });
    assert!(got == plain.1);
    until("memory comes back", || {
        sender.collect(left.as_fd()).unwrap();
        sender.is_idle()
    });
    let ZeroCopyCounts { calls, copied, refused } = sender.zero_copy_counts();
    assert!(calls >= 2 && copied == calls && refused == 0, "loopback copies: {:?}", sender.zero_copy_counts());
    assert_eq!(sender.released(), sender.queued());
}

#[test]
fn memory_is_not_back_while_the_peer_takes_nothing_but_it_is_after_a_reset() {
    let region = region();
    let (left, mut right) = pair();
    let mut sender = Sender::new(Role::Host);
    sender.use_zero_copy(left.as_fd(), 1).unwrap();
    while sender.send(left.as_fd(), Some(&region)).unwrap() {
        let pdu = DataPdu { cccid: 1, ttag: 0, datao: 0, last: true, success: false };
        sender.data(pdu, &[Range { offset: 0, len: 512 << 10 }]);
    }
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(5));
        sender.collect(left.as_fd()).unwrap();
        assert!(sender.released() < sender.sent());
    }
    socket::reset(left.as_fd()).unwrap();
    let mut zero_copy = sender.take_zero_copy().unwrap();
    until("memory comes back", || {
        zero_copy.collect(left.as_fd()).unwrap();
        zero_copy.is_over()
    });
    right.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    assert_eq!(right.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn peers_on_this_machine_are_told_apart() {
    let (left, right) = pair();
    assert!(is_local(&left).unwrap() && is_local(&right).unwrap());
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let _left = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(is_local(&listener.accept().unwrap().0).unwrap(), "IPv4 in the clothes of IPv6");
}
