//! Databases that cannot be reached or do not exist, and passwords, which must never be printed.

use std::{error::Error as _, net::TcpListener};

use locks_core::{LockError, LockManager};
use locks_tests::{engine::Database, events::Events, on_every_engine, plain::Plain};
use url::Url;

use super::{GIVEN_UP, error_of, error_within};

on_every_engine!(
    servers:
    async a_wrong_password_is_never_printed,
    async the_right_password_is_never_printed,
    async a_password_in_a_wrong_url_is_never_printed,
    async missing_server_is_reported,
    async silent_server_is_reported,
    async missing_database_is_reported,
);

/// All texts of an error: `Display`, `Debug` and its sources.
fn all_texts(error: &LockError) -> String {
    let mut said = vec![format!("{error} {error:?} {error:#?} {error:#}")];
    let mut source = error.source();
    while let Some(error) = source {
        said.push(format!("{error} {error:?}"));
        source = error.source();
    }
    said.join("\n")
}

fn assert_absent(secret: &str, reported: &[String]) {
    for text in reported {
        assert!(!text.contains(secret), "{text}");
    }
}

async fn a_wrong_password_is_never_printed(db: Database) {
    let events = Events::keep();
    // The password changes when it is percent-encoded.
    let secret = format!("hunter{}/ @", fastrand::u32(..));
    let encoded = secret
        .replace('/', "%2F")
        .replace(' ', "%20")
        .replace('@', "%40");
    let url = db.url_with(|url| url.set_password(Some(&secret)).unwrap());
    assert!(url.contains(&encoded), "the test itself: {url}");
    let request = LockManager::connect(&url);
    let mut reported = vec![format!("{request:?} {request:#?}")];
    let error = error_of(request).await;
    assert!(
        matches!(
            &error,
            LockError::Database {
                transient: false,
                ..
            }
        ),
        "a wrong password is not transient: {error:?}"
    );
    reported.push(all_texts(&error));
    reported.push(format!("{:?}", events.all()));
    assert_absent(&secret, &reported);
    assert_absent(&encoded, &reported);
}

async fn the_right_password_is_never_printed(db: Database) {
    let events = Events::keep();
    let url = Url::parse(db.url()).unwrap();
    let secret = url.password().expect("the test server has a password");
    let builder = LockManager::builder().task_id("discreet");
    let mut reported = vec![format!("{builder:?}")];
    let request = builder.connect(db.url());
    reported.push(format!("{request:?}"));
    let locks = request.await.unwrap();
    let (acquire, wait, held) = (locks.acquire("x"), locks.wait("y"), locks.held());
    reported.push(format!("{acquire:?} {wait:?} {held:?}"));
    let guard = acquire.await.unwrap();
    reported.push(format!(
        "{guard:#?} {locks:#?} {:?}",
        locks.with_namespace("n").unwrap()
    ));
    reported.push(all_texts(&error_of(locks.acquire("x")).await));
    db.execute("DROP TABLE locks").await;
    reported.push(all_texts(&error_within(GIVEN_UP, locks.acquire("y")).await));
    reported.push(format!("{:?}", events.all()));
    assert_absent(secret, &reported);
}

async fn a_password_in_a_wrong_url_is_never_printed(db: Database) {
    let scheme = db.url().split(':').next().unwrap();
    for url in [
        format!("{scheme}://user:hunter2@[::/db"),
        format!("{scheme}://user:hunter2@host:port/db"),
        format!("{scheme}://user:hunter2@host:99999/db"),
        format!("{scheme}:user:hunter2@"),
        format!("{scheme}://user:hunter2@127.0.0.1/db?ssl-mode=nonsense&sslmode=nonsense"),
        "oracle://user:hunter2@host/db".to_owned(),
        "user:hunter2@host/db".to_owned(),
        "hunter2".to_owned(),
    ] {
        let request = LockManager::connect(&url);
        let reported = format!("{request:?}");
        let error = error_of(request).await;
        assert_absent("hunter2", &[reported, all_texts(&error)]);
    }
}

/// The database's URL with the listener's port.
fn at_port_of(db: &Database, listener: &TcpListener) -> String {
    let port = listener.local_addr().unwrap().port();
    db.url_with(|url| url.set_port(Some(port)).unwrap())
}

async fn missing_server_is_reported(db: Database) {
    let url = at_port_of(&db, &TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let error = error_of(LockManager::connect(&url)).await;
    assert!(
        matches!(
            &error,
            LockError::Database {
                transient: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.is_transient() && !error.is_busy() && !error.is_timeout());
}

async fn silent_server_is_reported(db: Database) {
    // The operating system accepts the connections; the program does not.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = at_port_of(&db, &listener);
    let error = error_within(GIVEN_UP, LockManager::connect(&url)).await;
    assert!(
        matches!(
            &error,
            LockError::Database {
                transient: true,
                ..
            }
        ),
        "{error:?}"
    );
}

async fn missing_database_is_reported(db: Database) {
    let url = db.url_with(|url| url.set_path("locks_missing"));
    let error = error_of(LockManager::connect(&url)).await;
    assert!(
        matches!(
            &error,
            LockError::Database {
                transient: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("locks_missing"), "{error}");
    Plain::connect(&url)
        .await
        .expect_err("it is still not there");
}

#[tokio::test]
async fn url_of_an_unknown_engine_is_refused() {
    for url in [
        "",
        ":",
        "locks.db",
        "/locks.db",
        "oracle://h/d",
        "http://h",
        "SQLITE",
        "mysq://h",
    ] {
        let error = error_of(LockManager::connect(url)).await;
        let LockError::InvalidConfig { what, reason, .. } = &error else {
            panic!("{url:?}: {error:?}");
        };
        assert_eq!(*what, "database URL");
        for scheme in ["sqlite:", "mysql:", "mariadb:", "postgres:"] {
            assert!(reason.contains(scheme), "{url:?}: {error}");
        }
    }
}

#[tokio::test]
async fn file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    let notes = "Dear diary, this is no database. ".repeat(100);
    std::fs::write(&path, &notes).unwrap();
    let missing = directory.path().join("missing");
    for (path, parameters) in [
        (path.clone(), ""),
        (path.clone(), "?mode=rwc"),
        (missing.clone(), "?mode=rw"),
        (missing.clone(), "?mode=ro"),
        (missing.join("locks.db"), ""),
        (directory.path().to_owned(), ""),
    ] {
        let url = format!("sqlite://{}{parameters}", path.display());
        let error = error_of(LockManager::connect(&url)).await;
        assert!(
            matches!(
                error,
                LockError::Database {
                    transient: false,
                    ..
                }
            ),
            "{url}: {error:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
    let there: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(there.len(), 1, "{there:?}");
}
