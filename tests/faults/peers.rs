//! The worker processes of the tests, and the oracle with eight of them.

use std::time::{Duration, Instant};

use locks_tests::{oracle::Oracle, peer, process::Peer};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn peer_answers_line_by_line() {
    let mut peer = peer!("echo");
    peer.expect_line("ready", SOON);
    peer.send("noise");
    peer.send("answer 42");
    assert_eq!(peer.expect_line("answer", SOON), "42");
    peer.finish_well(SOON);
    assert_eq!(peer.next_line(SOON), None);
}

#[test]
fn stopped_peer_is_silent_until_it_continues() {
    let mut peer = peer!("echo");
    peer.expect_line("ready", SOON);
    peer.stop();
    peer.send("hello");
    peer.expect_silence(Duration::from_millis(100));
    peer.cont();
    peer.expect_line("hello", SOON);
}

#[test]
fn killed_peer_is_gone_or_a_zombie() {
    let mut peer = peer!("echo");
    peer.expect_line("ready", SOON);
    peer.kill();
    assert!(!peer.is_running());
    assert_eq!(peer.next_line(SOON), None);

    let mut peer = peer!("echo");
    peer.kill_unreaped();
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", peer.pid())) {
        assert!(stat.contains(") Z "), "{stat}");
    }
}

#[test]
#[should_panic(expected = "unexpected argument")]
fn errors_of_a_failed_peer_are_shown() {
    peer!("echo", "--nonsense").finish_well(SOON);
}

fn eight_judged(unlocked: bool) -> (u64, usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let more: &[&str] = if unlocked { &["--unlocked"] } else { &[] };
    let start = |_| {
        let directory = directory.path().to_str().expect("text");
        let args = ["judge", directory, "1000"]
            .into_iter()
            .chain(more.iter().copied());
        Peer::spawn(env!("CARGO_BIN_EXE_peer"), args)
    };
    let mut peers: Vec<_> = (0..8).map(start).collect();
    let deadline = Instant::now() + SOON;
    let mut sum = 0;
    for peer in &mut peers {
        let left = deadline.saturating_duration_since(Instant::now());
        sum += peer
            .expect_line("grants", left)
            .parse::<u64>()
            .expect("a number");
        peer.finish_well(SOON);
    }
    let mut oracle = Oracle::open(directory.path());
    assert_eq!(oracle.grants(), sum);
    (sum, oracle.violations().len())
}

#[test]
fn oracle_has_no_false_alarm_among_eight_processes() {
    let (grants, violations) = eight_judged(false);
    assert!(grants > 100, "{grants}");
    assert_eq!(violations, 0);
}

#[test]
fn oracle_detects_missing_exclusion_among_eight_processes() {
    let (grants, violations) = eight_judged(true);
    assert!(violations > 10, "{violations} of {grants}");
}
