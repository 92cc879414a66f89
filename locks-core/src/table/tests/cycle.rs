//! Cycles of the wait-for graph: every cycle is found, and nothing else.

use super::{request, table, texts};

fn cycle(scenario: &[&str], asks: &str) -> Vec<String> {
    texts(&table(scenario).cycle(&request(asks)).unwrap_or_default())
}

/// A ring in which task `n` of `0..size` holds lock `n` and waits for the next lock. The
/// request of the last task, which closes the ring, is returned on its own.
fn ring(size: usize) -> (Vec<String>, String) {
    let mut scenario: Vec<_> = (0..size)
        .map(|n| format!("t{n}:{} holds l{n}", 100 + n))
        .collect();
    scenario.extend((0..size - 1).map(|n| format!("t{n}:{} waits l{}", 100 + n, n + 1)));
    (scenario, format!("t{}:{} asks l0", size - 1, 99 + size))
}

#[test]
fn two_tasks_that_wait_for_each_other_are_a_cycle() {
    let scenario = &["a:1 holds x", "b:2 holds y", "a:1 waits y"];
    let expected = ["a holds x", "a waits y", "b holds y"];
    assert_eq!(cycle(scenario, "b:2 asks x"), expected);
    // An ancestor waits while a nested call waits.
    let scenario = &["a:1 holds x", "b:2 holds y", "a:1.3.4 waits y"];
    assert_eq!(cycle(scenario, "b:2.5 asks x"), expected);
}

#[test]
fn last_request_of_a_ring_closes_the_cycle() {
    for size in [2, 3, 5, 20] {
        let (scenario, asks) = ring(size);
        let scenario: Vec<_> = scenario.iter().map(String::as_str).collect();
        assert_eq!(cycle(&scenario, &asks).len(), 2 * size - 1, "{size}");
        let open: Vec<_> = scenario
            .iter()
            .copied()
            .filter(|line| *line != "t1:101 holds l1")
            .collect();
        if size > 2 {
            assert_eq!(cycle(&open, &asks), [""; 0], "{size}, open");
        }
    }
}

#[test]
fn call_that_waits_for_its_caller_is_a_cycle() {
    assert_eq!(cycle(&["a:1 holds x"], "a:1.2 asks x"), ["a holds x"]);
    assert_eq!(cycle(&["a:1 holds x"], "a:1 asks x"), ["a holds x"]);
    // The conflict is by a rule, not by an equal name.
    let expected = ["a holds app_task_1"];
    assert_eq!(
        cycle(&["a:1 holds app_task_1"], "a:1.2.3 asks box_update"),
        expected
    );
}

#[test]
fn one_of_several_names_can_be_part_of_a_cycle() {
    let scenario = &[
        "a:1 holds x x2",
        "b:2 holds y",
        "c:3 holds z",
        "a:1 waits z y",
    ];
    let expected = ["a holds x2", "a waits y z", "b holds y"];
    assert_eq!(cycle(scenario, "b:2 asks x2"), expected);
}

#[test]
fn request_for_the_lock_of_a_sibling_is_no_cycle() {
    // The sibling releases the lock without waiting for the request.
    assert_eq!(cycle(&["a:1.2 holds x"], "a:1.3 asks x"), [""; 0]);
    // A child holds the lock, and the child does not wait for its parent.
    assert_eq!(cycle(&["a:1.2 holds x"], "a:1 asks x"), [""; 0]);
    let scenario = &["a:1.2 holds x", "b:9 holds y", "a:1.4 waits y"];
    assert_eq!(
        cycle(scenario, "b:9 asks x"),
        [""; 0],
        "another sibling waits"
    );
    // Two siblings that wait for each other's locks are a cycle.
    let scenario = &["a:1.2 holds x", "a:1.3 holds y", "a:1.2 waits y"];
    let expected = ["a holds x", "a waits y", "a holds y"];
    assert_eq!(cycle(scenario, "a:1.3 asks x"), expected);
}

#[test]
fn lock_outside_any_scope_is_not_part_of_a_cycle() {
    let cases: &[(&[&str], &str)] = &[
        (&["a holds x"], "a asks x"),
        (&["a holds x"], "a:1 asks x"),
        (&["a holds x", "b:2 holds y", "a waits y"], "b:2 asks x"),
        (&["a:1 holds x", "b holds y", "a:1 waits y"], "b asks x"),
        (&["a holds x", "b holds y", "a waits y"], "b asks x"),
        (&["original holds x", "b:2 holds y"], "b:2 asks x"),
    ];
    for (scenario, asks) in cases {
        assert_eq!(cycle(scenario, asks), [""; 0], "{scenario:?}, {asks}");
    }
}

#[test]
fn waiting_behind_an_earlier_request_is_no_edge() {
    // v waits for b and is earlier than a. As soon as b waits for a, v does not block a any
    // more, so there is no cycle.
    let scenario = &["a:1 holds x", "b:2 holds y", "v waits y z", "a:1 waits z"];
    assert_eq!(cycle(scenario, "b:2 asks x"), [""; 0]);
    // With names that conflict by a rule only.
    let scenario = &[
        "a:1 holds app_task_1",
        "b:2 holds other",
        "v waits other box_update",
        "a:1 waits app_task_2",
    ];
    assert_eq!(cycle(scenario, "b:2 asks app_task_1"), [""; 0]);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn search_for_a_cycle_visits_each_request_once() {
    let mut scenario: Vec<_> = (0..400)
        .map(|n| format!("t{n}:{} holds l{n}", n + 1))
        .collect();
    scenario.extend((0..399).map(|n| format!("t{n}:{} waits l{}", n + 1, n + 1)));
    scenario.extend((0..400).map(|n| format!("w{n} waits l0 l{n}")));
    let scenario: Vec<_> = scenario.iter().map(String::as_str).collect();
    let table = table(&scenario);
    let start = std::time::Instant::now();
    assert!(table.cycle(&request("new:999 asks l0")).is_none());
    assert!(table.cycle(&request("t399:400 asks free")).is_none());
    assert_eq!(
        table.cycle(&request("t399:400 asks l0")).map(|c| c.len()),
        Some(799)
    );
    assert!(
        start.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}
