//! The conflict rule: against holders as written, against waiters both ways.

use super::{refused, request, told};
use crate::{
    matrix::tests::{NAMES, REFUSED},
    report::Blocker,
    table::Order,
};

/// Every ordered pair of the platform's names, and whether the first is refused while the
/// second is held.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    NAMES.iter().zip(REFUSED).flat_map(|(asked, row)| {
        let cells = NAMES.iter().zip(row.chars());
        cells.map(move |(held, cell)| (*asked, *held, cell == 'x'))
    })
}

#[test]
fn against_a_holder_the_matrix_counts_as_it_is_written() {
    for (asked, held, expected) in pairs() {
        let refused = refused(&[&format!("h holds {held}")], &format!("a asks {asked}"));
        let blockers: &[_] = &[format!("h holds {held}")];
        assert_eq!(refused, blockers[..usize::from(expected)], "{asked}");
    }
}

#[test]
fn against_an_earlier_waiter_it_counts_in_either_direction() {
    for (asked, awaited, forth) in pairs() {
        let mut reverse = pairs().filter(|(a, b, _)| *a == awaited && *b == asked);
        let (.., back) = reverse.next().expect("all pairs");
        let story = &[
            &*format!("h holds {awaited}_of_h"),
            &format!("w waits {awaited}"),
        ];
        let refused = refused(story, &format!("a asks {asked}"));
        let conflicts = refused.contains(&format!("w waits {awaited}"));
        assert_eq!(
            conflicts,
            forth || back,
            "{asked} behind {awaited}: {refused:?}"
        );
    }
}

#[test]
fn one_conflict_of_several_names_refuses_all_of_them() {
    let story = &["h holds app_task_2", "w waits other"];
    let cases: &[(&str, &[&str])] = &[
        ("a asks app_task_1 app_task_3", &[]),
        ("a asks app_task_1 app_task_2", &["h holds app_task_2"]),
        ("a asks mail_restart other", &["w waits other"]),
        (
            "a asks app_task_2 other",
            &["h holds app_task_2", "w waits other"],
        ),
    ];
    for (asks, expected) in cases {
        assert_eq!(refused(story, asks), *expected, "{asks}");
    }
}

#[test]
fn names_of_one_request_do_not_conflict_with_each_other() {
    let both = request("a asks box_update app_task_1 app_backup_1");
    let mut table = told(&[]);
    assert!(table.is_free(&both, Order::Behind(0)));
    table.grant(&both, 7);
    assert_eq!(
        table.granted(&(both.session, both.nonce), &both.names),
        Some(7)
    );
}

#[test]
fn a_session_does_not_share_what_it_holds_with_itself() {
    assert_eq!(refused(&["a holds x"], "a asks x"), ["a holds x"]);
    assert_eq!(refused(&["a:1 holds x"], "a:1.2 asks x"), ["a holds x"]);
}

#[test]
fn a_prefix_fits_what_starts_with_it_and_nothing_beside() {
    let cases = [
        ("app_task_", true),
        ("app_task_1", true),
        ("app_task_~", true),
        ("app_task_\u{10ffff}", true),
        ("app_task", false),
        ("app_tasl", false),
        ("app_tas", false),
        ("app_task^", false),
        ("app_task`", false),
        ("APP_TASK_1", false),
        ("xapp_task_1", false),
    ];
    // All at once, so that a search over a range has neighbours to stumble over.
    let all: Vec<_> = cases
        .iter()
        .map(|(name, _)| format!("h holds {name}"))
        .collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let mut expected: Vec<_> = cases.iter().filter(|(_, fits)| *fits).collect();
    expected.sort();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, _)| format!("h holds {name}"))
        .collect();
    assert_eq!(refused(&all, "a asks box_update"), expected);
}

#[test]
fn another_matrix_conflicts_with_everything_until_it_is_gone() {
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["e! holds x"], "a asks y", &["e! has another matrix"]),
        (&["e! waits x"], "a asks y", &["e! has another matrix"]),
        (&["a holds x"], "e! asks y", &["a has another matrix"]),
        (&["a waits x"], "e! asks y", &["a has another matrix"]),
        (&["e! holds x"], "f! asks y", &[]),
        // The name is the same, but not even that is ours to say.
        (&["e! holds x"], "a asks x", &["e! has another matrix"]),
        // One of ours beside it is told as usual.
        (
            &["a holds x", "e! holds y"],
            "b asks x",
            &["a holds x", "e! has another matrix"],
        ),
    ];
    for (story, asks, expected) in cases {
        assert_eq!(refused(story, asks), *expected, "{story:?}, {asks}");
    }
    let alien = request("e! asks x");
    let mut table = told(&[]);
    table.grant(&alien, 1);
    table.release(&(alien.session.clone(), alien.nonce), &alien.names);
    assert!(table.is_free(&request("a asks y"), Order::Behind(0)));
}

#[test]
fn the_original_s_locks_are_judged_by_the_platform_s_matrix() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("original holds x", "a asks x", &["original holds x"]),
        ("original holds x", "a asks y", &[]),
        (
            "original holds box_update",
            "a asks app_task_1",
            &["original holds box_update"],
        ),
        ("original holds box_update", "a asks app_backup_1", &[]),
        (
            "original holds x",
            "e! asks y",
            &["original has another matrix"],
        ),
    ];
    for (held, asks, expected) in cases {
        assert_eq!(refused(&[held], asks), *expected, "{held}, {asks}");
    }
}

#[test]
fn a_blocker_says_since_when_and_with_which_token() {
    let table = told(&["h holds x", "original holds y", "w waits z"]);
    let blockers = table.blockers(&request("a asks x y z"), Order::Behind(1));
    let [
        Blocker::Holder(ours),
        Blocker::Holder(foreign),
        Blocker::Waiter(waiter),
    ] = &blockers[..]
    else {
        panic!("{blockers:?}")
    };
    assert_eq!((ours.token, ours.since.is_some()), (Some(1), true));
    assert_eq!((foreign.token, foreign.since), (None, None));
    assert!(waiter.since.is_some() && waiter.blocked_by.is_empty());
}

#[test]
fn whoever_barges_minds_holders_only() {
    let table = told(&["h holds x", "w waits x y"]);
    assert!(table.is_free(&request("a asks y"), Order::Barging));
    assert!(!table.is_free(&request("a asks y"), Order::Behind(1)));
    assert!(!table.is_free(&request("a asks x"), Order::Barging));
}
