//! The relay against a server that echoes, and one that remembers.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);
/// How long nothing must happen in order to count as nothing.
const SILENCE: Duration = Duration::from_millis(100);

/// An echo server, and what it receives.
fn echo() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, send) = (stream.unwrap(), send.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let _ = send.send(buffer[..n].to_vec());
                    if stream.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, receive)
}

struct Setup {
    relay: Relay,
    received: mpsc::Receiver<Vec<u8>>,
    client: TcpStream,
}

fn setup() -> Setup {
    let (server, received) = echo();
    let relay = Relay::start(server);
    let client = connect(&relay);
    Setup {
        relay,
        received,
        client,
    }
}

fn connect(relay: &Relay) -> TcpStream {
    let client = TcpStream::connect(relay.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client
}

impl Setup {
    fn ask(&mut self, request: &str) -> String {
        self.client.write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; request.len()];
        self.client.read_exact(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// All bytes that arrive before the connection ends.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.client.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        rest
    }

    fn server_got(&self, limit: Duration) -> Option<Vec<u8>> {
        self.received.recv_timeout(limit).ok()
    }
}

#[test]
fn forwards_everything() {
    let mut s = setup();
    assert_eq!(s.ask("one"), "one");
    assert_eq!(s.ask("two"), "two");
    assert_eq!(s.relay.counters().requests, 2);
    assert_eq!(s.relay.counters().cuts(), 0);
}

#[test]
fn cuts_before_the_request() {
    let mut s = setup();
    s.relay.arm(When::After(1), How::CutBefore);
    s.ask("one");
    s.client.write_all(b"two").unwrap();
    assert_eq!(s.rest(), b"");
    assert_eq!(s.server_got(SOON).unwrap(), b"one");
    assert_eq!(s.server_got(SILENCE), None);
    assert_eq!(s.relay.counters().cut_before, 1);
    // Only once.
    s.client = connect(&s.relay);
    assert_eq!(s.ask("three"), "three");
}

#[test]
fn cuts_after_the_request() {
    let mut s = setup();
    s.relay.arm(When::Containing(b"w".to_vec()), How::CutAfter);
    s.ask("one");
    s.client.write_all(b"two").unwrap();
    assert_eq!(s.rest(), b"");
    assert_eq!(s.server_got(SOON).unwrap(), b"one");
    assert_eq!(s.server_got(SOON).unwrap(), b"two");
    assert_eq!(s.relay.counters().cut_after, 1);
}

#[test]
fn cuts_within_the_answer_and_never_after_it() {
    for (n, arrives) in [(0, ""), (1, "t"), (3, "thr"), (5, "thre"), (99, "thre")] {
        let mut s = setup();
        s.relay.arm(When::Next, How::CutWithin(n));
        s.client.write_all(b"three").unwrap();
        assert_eq!(s.rest(), arrives.as_bytes());
        assert_eq!(s.server_got(SOON).unwrap(), b"three");
        assert_eq!(s.relay.counters().cut_within, 1);
    }
}

#[test]
fn what_is_armed_happens_in_order_and_can_be_forgotten() {
    let mut s = setup();
    s.relay
        .arm(When::Containing(b"never".to_vec()), How::CutBefore);
    s.relay.arm(When::Next, How::Delay(SILENCE));
    s.relay.arm(When::Next, How::CutBefore);
    let start = Instant::now();
    assert_eq!(s.ask("one"), "one");
    assert!(start.elapsed() >= SILENCE);
    s.client.write_all(b"two").unwrap();
    assert_eq!(s.rest(), b"");
    assert_eq!((s.relay.counters().delayed, s.relay.disarm()), (1, 1));
}

/// Asserts that nothing arrives, on a connection that stays open.
fn silent(client: &mut TcpStream) {
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let error = client.read(&mut [0]).expect_err("nothing arrives");
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    client.set_read_timeout(Some(SOON)).unwrap();
}

#[test]
fn a_stalled_request_lands_late_even_without_its_client() {
    let mut s = setup();
    s.ask("one");
    s.relay.arm(When::Next, How::Stall);
    s.client.write_all(b"two").unwrap();
    silent(&mut s.client);
    // Another connection is not affected.
    let stalled = std::mem::replace(&mut s.client, connect(&s.relay));
    assert_eq!(s.ask("three"), "three");
    drop(stalled);
    assert_eq!(s.server_got(SOON).unwrap(), b"one");
    assert_eq!(s.server_got(SOON).unwrap(), b"three");
    assert_eq!(s.server_got(SILENCE), None);
    s.relay.heal();
    assert_eq!(s.server_got(SOON).unwrap(), b"two");
}

#[test]
fn a_stalled_answer_comes_when_healed() {
    let mut s = setup();
    s.relay.arm(When::Next, How::StallAnswer);
    s.client.write_all(b"one").unwrap();
    assert_eq!(s.server_got(SOON).unwrap(), b"one");
    silent(&mut s.client);
    s.relay.heal();
    let mut answer = [0; 3];
    s.client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"one");
    assert_eq!(s.ask("two"), "two");
    assert_eq!(s.relay.counters().stalled, 1);
}

#[test]
fn stall_keeps_all_connections_until_healed() {
    let mut s = setup();
    s.ask("one");
    s.relay.stall();
    s.client.write_all(b"two").unwrap();
    silent(&mut s.client);
    let mut other = connect(&s.relay);
    other.write_all(b"new").unwrap();
    silent(&mut other);
    s.relay.heal();
    for (client, expected) in [(&mut s.client, "two"), (&mut other, "new")] {
        let mut answer = [0; 3];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected.as_bytes());
    }
}

#[tokio::test]
async fn cut_by_hand_and_refused() {
    let mut s = setup();
    s.ask("one");
    s.relay.refuse();
    s.relay.cut_all();
    assert_eq!(s.rest(), b"");
    s.client = connect(&s.relay);
    assert_eq!(s.rest(), b"");
    s.relay
        .wait_for(SOON, "both are closed", |c| c.refused == 1 && c.open == 0)
        .await;
    assert_eq!(s.relay.counters().cut_by_hand, 1);
    s.relay.heal();
    s.client = connect(&s.relay);
    assert_eq!(s.ask("two"), "two");
    let (elsewhere, received) = echo();
    s.relay.lead_to(elsewhere);
    s.client = connect(&s.relay);
    assert_eq!(s.ask("three"), "three");
    assert_eq!(received.recv_timeout(SOON).unwrap(), b"three");
}

#[test]
fn dropped_relay_closes_its_connections() {
    let mut s = setup();
    s.ask("one");
    let Setup {
        relay, mut client, ..
    } = s;
    let address = relay.address();
    drop(relay);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    TcpStream::connect(address).expect_err("the relay has ended");
}

#[test]
fn a_latency_delays_each_direction() {
    const LATENCY: Duration = Duration::from_millis(40);
    let mut s = setup();
    s.ask("one");
    s.relay.set_latency(LATENCY);
    for request in ["two", "three"] {
        let start = Instant::now();
        assert_eq!(s.ask(request), request);
        let took = start.elapsed();
        assert!(took >= 2 * LATENCY, "{took:?}");
    }
    s.relay.set_latency(Duration::ZERO);
    assert_eq!(s.ask("four"), "four");
}

#[test]
fn a_latency_does_not_limit_throughput() {
    const LATENCY: Duration = Duration::from_millis(100);
    const CHUNKS: usize = 100;
    let mut s = setup();
    s.relay.set_latency(LATENCY);
    let start = Instant::now();
    let mut sent = Vec::new();
    for n in 0..CHUNKS {
        let chunk = format!("{n:010}");
        s.client.write_all(chunk.as_bytes()).unwrap();
        sent.extend_from_slice(chunk.as_bytes());
        // The relay reads each chunk by itself.
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut answer = vec![0; sent.len()];
    s.client.read_exact(&mut answer).unwrap();
    let took = start.elapsed();
    assert_eq!(answer, sent);
    assert!(took >= 2 * LATENCY, "{took:?}");
    // One chunk per round trip would take 20 s.
    assert!(took < 20 * LATENCY, "{took:?}");
}

#[test]
fn a_latency_does_not_lose_the_bytes_before_the_end() {
    let mut s = setup();
    s.relay.set_latency(Duration::from_millis(50));
    s.client.write_all(b"last").unwrap();
    let Setup {
        relay,
        received,
        client,
    } = s;
    drop(client);
    assert_eq!(received.recv_timeout(SOON).unwrap(), b"last");
    drop(relay);
}
