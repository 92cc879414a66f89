//! Cycles of the wait-for graph: all that are there, and none that are not.

use super::{request, texts, told};

fn cycle(story: &[&str], asks: &str) -> Vec<String> {
    texts(&told(story).cycle(&request(asks)).unwrap_or_default())
}

/// A ring in which each of `0..size` holds `l<n>` and waits for the next one's, but for the
/// last, which is about to ask.
fn ring(size: usize) -> (Vec<String>, String) {
    let mut story: Vec<_> = (0..size)
        .map(|n| format!("t{n}:{} holds l{n}", 100 + n))
        .collect();
    story.extend((0..size - 1).map(|n| format!("t{n}:{} waits l{}", 100 + n, n + 1)));
    (story, format!("t{}:{} asks l0", size - 1, 99 + size))
}

#[test]
fn two_that_wait_for_each_other() {
    let story = &["a:1 holds x", "b:2 holds y", "a:1 waits y"];
    let expected = ["a holds x", "a waits y", "b holds y"];
    assert_eq!(cycle(story, "b:2 asks x"), expected);
    // Nested calls wait for their ancestors.
    let story = &["a:1 holds x", "b:2 holds y", "a:1.3.4 waits y"];
    assert_eq!(cycle(story, "b:2.5 asks x"), expected);
}

#[test]
fn rings_of_any_size_are_closed_by_the_last() {
    for size in [2, 3, 5, 20] {
        let (story, asks) = ring(size);
        let story: Vec<_> = story.iter().map(String::as_str).collect();
        assert_eq!(cycle(&story, &asks).len(), 2 * size - 1, "{size}");
        let open: Vec<_> = story
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
fn a_call_that_waits_for_its_own_caller() {
    assert_eq!(cycle(&["a:1 holds x"], "a:1.2 asks x"), ["a holds x"]);
    assert_eq!(cycle(&["a:1 holds x"], "a:1 asks x"), ["a holds x"]);
    // By a rule, not by the same name.
    let expected = ["a holds app_task_1"];
    assert_eq!(
        cycle(&["a:1 holds app_task_1"], "a:1.2.3 asks box_update"),
        expected
    );
}

#[test]
fn a_circle_through_one_of_several_names() {
    let story = &[
        "a:1 holds x x2",
        "b:2 holds y",
        "c:3 holds z",
        "a:1 waits z y",
    ];
    let expected = ["a holds x2", "a waits z y", "b holds y"];
    assert_eq!(cycle(story, "b:2 asks x2"), expected);
}

#[test]
fn siblings_just_wait() {
    // One holds what the other asks for, and will be done with it.
    assert_eq!(cycle(&["a:1.2 holds x"], "a:1.3 asks x"), [""; 0]);
    // Nor does the parent wait for anything that a child asks for.
    assert_eq!(cycle(&["a:1.2 holds x"], "a:1 asks x"), [""; 0]);
    let story = &["a:1.2 holds x", "b:9 holds y", "a:1.4 waits y"];
    assert_eq!(cycle(story, "b:9 asks x"), [""; 0], "another sibling waits");
    // But two siblings that hold and want each other's are no better than strangers.
    let story = &["a:1.2 holds x", "a:1.3 holds y", "a:1.2 waits y"];
    let expected = ["a holds x", "a waits y", "a holds y"];
    assert_eq!(cycle(story, "a:1.3 asks x"), expected);
}

#[test]
fn what_is_held_outside_any_scope_takes_no_part() {
    let cases: &[(&[&str], &str)] = &[
        (&["a holds x"], "a asks x"),
        (&["a holds x"], "a:1 asks x"),
        (&["a holds x", "b:2 holds y", "a waits y"], "b:2 asks x"),
        (&["a:1 holds x", "b holds y", "a:1 waits y"], "b asks x"),
        (&["a holds x", "b holds y", "a waits y"], "b asks x"),
        (&["original holds x", "b:2 holds y"], "b:2 asks x"),
    ];
    for (story, asks) in cases {
        assert_eq!(cycle(story, asks), [""; 0], "{story:?}, {asks}");
    }
}

#[test]
fn who_waits_in_line_alone_closes_no_circle() {
    // v, who holds nothing, waits for b and stands before a; but as soon as b waits for a, a
    // need not mind v any more, so there is no cycle to break.
    let story = &["a:1 holds x", "b:2 holds y", "v waits y z", "a:1 waits z"];
    assert_eq!(cycle(story, "b:2 asks x"), [""; 0]);
    // The same among names that only conflict by a rule.
    let story = &[
        "a:1 holds app_task_1",
        "b:2 holds other",
        "v waits other box_update",
        "a:1 waits app_task_2",
    ];
    assert_eq!(cycle(story, "b:2 asks app_task_1"), [""; 0]);
}

#[test]
fn many_waiters_without_a_circle_are_searched_in_no_time() {
    let mut story: Vec<_> = (0..400)
        .map(|n| format!("t{n}:{} holds l{n}", n + 1))
        .collect();
    story.extend((0..399).map(|n| format!("t{n}:{} waits l{}", n + 1, n + 1)));
    story.extend((0..400).map(|n| format!("w{n} waits l0 l{n}")));
    let story: Vec<_> = story.iter().map(String::as_str).collect();
    let table = told(&story);
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
