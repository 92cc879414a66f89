//! What cannot be asked for: each a clear error, and nothing is changed by it.

use std::{error::Error as _, fmt::Debug, net::TcpListener, time::Duration};

use locks_core::{LockError, LockManager, LockName};
use locks_tests::{
    engine::{Database, Engine},
    events::Events,
    on_every_engine,
    plain::Plain,
    row::LocksRow,
};
use url::Url;

/// No error of these takes longer; what needs time is not tried again.
const AT_ONCE: Duration = Duration::from_secs(5);
/// But for a server that may only be slow.
const GIVEN_UP: Duration = Duration::from_secs(20);

on_every_engine!(
    async names_that_cannot_be,
    async no_names_at_all,
    async namespaces_that_cannot_be,
    async task_ids_that_cannot_be,
    async a_release_of_what_nobody_holds,
    async a_release_of_what_another_holds,
);
on_every_engine!(
    servers:
    async a_wrong_password_is_never_printed,
    async the_right_password_is_never_printed,
    async a_password_in_a_wrong_url_is_never_printed,
    async a_server_that_is_not_there,
    async a_server_that_says_nothing,
    async a_database_that_is_not_there,
);

fn names_of_no_lock() -> Vec<String> {
    let names = [
        "",
        " ",
        " x",
        "x ",
        "\tx",
        "x\u{a0}",
        "x\n",
        "a\nb",
        "a\0b",
        "a\u{7f}b",
        "a\u{85}b",
        "*",
        "app_task_*",
        "a*b",
    ];
    let mut names: Vec<_> = names.map(str::to_owned).into();
    names.extend(["x".repeat(256), "ä".repeat(128)]);
    names
}

/// A manager that has used its row, and the row.
async fn used(db: &Database) -> (LockManager, LocksRow) {
    let locks = LockManager::builder()
        .task_id("us")
        .connect(db.url())
        .await
        .expect("it connects");
    let guard = locks.acquire("used").await.expect("nobody else is here");
    guard.release().await.expect("it is ours");
    let row = LocksRow::read(db, "platform").await.expect("it was used");
    (locks, row)
}

/// The future's error, which comes at once.
async fn error_of<T: Debug>(future: impl IntoFuture<Output = locks_core::Result<T>>) -> LockError {
    tokio::time::timeout(AT_ONCE, future)
        .await
        .expect("an error that comes at once")
        .expect_err("this cannot be")
}

async fn names_that_cannot_be(db: Database) {
    let (locks, row) = used(&db).await;
    for bad in names_of_no_lock() {
        let errors = [
            LockName::new(&bad).expect_err("this cannot be"),
            error_of(locks.acquire(&bad)).await,
            error_of(locks.acquire(["good", &bad])).await,
            error_of(locks.wait(&bad)).await,
            error_of(locks.wait(&bad).timeout(Duration::from_secs(60))).await,
            error_of(locks.wait(vec!["good".to_owned(), bad.clone()])).await,
            error_of(locks.release(&bad)).await,
        ];
        for error in errors {
            let LockError::InvalidName { name, reason, .. } = &error else {
                panic!("{bad:?}: {error:?}");
            };
            assert_eq!(**name, *bad);
            let text = error.to_string();
            assert!(
                text.contains(reason) && text.contains(&format!("{bad:?}")),
                "{text}"
            );
        }
        assert_eq!(
            LocksRow::read(&db, "platform").await.as_ref(),
            Some(&row),
            "{bad:?}"
        );
    }
}

async fn no_names_at_all(db: Database) {
    let (locks, row) = used(&db).await;
    let errors = [
        error_of(locks.acquire([] as [&str; 0])).await,
        error_of(locks.acquire(Vec::<String>::new())).await,
        error_of(locks.wait(&[] as &[LockName])).await,
    ];
    for error in errors {
        assert!(matches!(error, LockError::InvalidName { .. }), "{error:?}");
    }
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn namespaces_that_cannot_be(db: Database) {
    let (locks, row) = used(&db).await;
    let long = "x".repeat(65);
    let bad = [
        "", "A", "a b", "a ", "ä", "a/b", "a'b", "a%", "a\0", "*", &long,
    ];
    let other = Database::create(db.engine());
    for namespace in bad {
        let errors = [
            locks.with_namespace(namespace).expect_err("this cannot be"),
            error_of(
                LockManager::builder()
                    .namespace(namespace)
                    .connect(other.url()),
            )
            .await,
        ];
        for error in errors {
            assert!(
                matches!(
                    &error,
                    LockError::InvalidConfig {
                        what: "namespace",
                        ..
                    }
                ),
                "{namespace:?}: {error:?}"
            );
            assert!(
                error.to_string().contains(&format!("{namespace:?}")),
                "{error}"
            );
        }
        assert_eq!(LocksRow::read(&other, "platform").await, None);
    }
    let rows = db
        .connect()
        .await
        .rows("SELECT id FROM locks")
        .await
        .unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn task_ids_that_cannot_be(db: Database) {
    let (locks, row) = used(&db).await;
    let other = Database::create(db.engine());
    for id in names_of_no_lock() {
        let errors = [
            locks.with_task_id(&id).expect_err("this cannot be"),
            error_of(LockManager::builder().task_id(&id).connect(other.url())).await,
        ];
        for error in errors {
            assert!(
                matches!(
                    &error,
                    LockError::InvalidConfig {
                        what: "task id",
                        ..
                    }
                ),
                "{id:?}: {error:?}"
            );
            assert!(error.to_string().contains(&format!("{id:?}")), "{error}");
        }
        assert_eq!(LocksRow::read(&other, "platform").await, None);
        // Nobody can be called so, and nobody is.
        assert_eq!(locks.release_task(&id).await.unwrap_or_default(), []);
    }
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn a_release_of_what_nobody_holds(db: Database) {
    let (locks, row) = used(&db).await;
    for name in ["x", "used"] {
        let error = error_of(locks.release(name)).await;
        assert!(
            matches!(&error, LockError::NotHeld { name: told, .. } if *told == name),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn a_release_of_what_another_holds(db: Database) {
    let (locks, _) = used(&db).await;
    let other = locks.with_task_id("other").unwrap();
    let stranger = LockManager::builder().task_id("stranger");
    let stranger = stranger.connect(db.url()).await.unwrap();
    let guard = stranger.acquire("guarded").await.unwrap();
    let token = guard.token();
    stranger.acquire("detached").await.unwrap().detach();
    other.acquire("neighbours").await.unwrap().detach();
    let row = LocksRow::read(&db, "platform").await;
    for (name, holder) in [
        ("guarded", "stranger"),
        ("detached", "stranger"),
        ("neighbours", "other"),
    ] {
        let error = error_of(locks.release(name)).await;
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(holder), "{text}");
        let LockError::HeldByOther { holder: told, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((told.name.as_str(), &*told.task_id), (name, holder));
        assert!(told.token >= Some(token), "{told:?}");
    }
    assert_eq!(LocksRow::read(&db, "platform").await, row);
    assert!(!guard.is_lost());
}

/// Everything that an error says to whoever looks closely.
fn all_it_says(error: &LockError) -> String {
    let mut text = format!("{error} {error:?} {error:#?} {error:#}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

fn has_no(secret: &str, text: &str) {
    assert!(!text.contains(secret), "{text}");
}

async fn a_wrong_password_is_never_printed(db: Database) {
    let events = Events::keep();
    // Such that it is another one after percent-encoding.
    let secret = format!("hunter{}/ @", fastrand::u32(..));
    let encoded = secret
        .replace('/', "%2F")
        .replace(' ', "%20")
        .replace('@', "%40");
    let url = db.url_with(|url| url.set_password(Some(&secret)).unwrap());
    assert!(url.contains(&encoded), "the test itself: {url}");
    let request = LockManager::connect(&url);
    let mut told = format!("{request:?} {request:#?}");
    let error = error_of(request).await;
    assert!(
        matches!(
            &error,
            LockError::Database {
                transient: false,
                ..
            }
        ),
        "somebody must mend this: {error:?}"
    );
    told += &all_it_says(&error);
    told += &format!("{:?}", events.all());
    has_no(&secret, &told);
    has_no(&encoded, &told);
}

async fn the_right_password_is_never_printed(db: Database) {
    let events = Events::keep();
    let url = Url::parse(db.url()).unwrap();
    let secret = url.password().expect("the test server has a password");
    let builder = LockManager::builder().task_id("discreet");
    let mut told = format!("{builder:?}");
    let request = builder.connect(db.url());
    told += &format!("{request:?}");
    let locks = request.await.unwrap();
    let (acquire, wait, held) = (locks.acquire("x"), locks.wait("y"), locks.held());
    told += &format!("{acquire:?} {wait:?} {held:?}");
    let guard = acquire.await.unwrap();
    told += &format!(
        "{guard:#?} {locks:#?} {:?}",
        locks.with_namespace("n").unwrap()
    );
    told += &all_it_says(&error_of(locks.acquire("x")).await);
    db.execute("DROP TABLE locks").await;
    told += &all_it_says(&error_of(locks.acquire("y")).await);
    told += &format!("{:?}", events.all());
    has_no(secret, &told);
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
        let told = format!("{request:?}");
        let error = error_of(request).await;
        has_no("hunter2", &(told + &all_it_says(&error)));
    }
}

/// The database's URL with another port.
fn at_port_of(db: &Database, listener: &TcpListener) -> String {
    let port = listener.local_addr().unwrap().port();
    db.url_with(|url| url.set_port(Some(port)).unwrap())
}

async fn a_server_that_is_not_there(db: Database) {
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

async fn a_server_that_says_nothing(db: Database) {
    // It takes connections, as far as the system does that for it.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let connecting = LockManager::connect(&at_port_of(&db, &listener));
    let answer = tokio::time::timeout(GIVEN_UP, connecting).await;
    let error = answer.expect("an error").expect_err("nobody speaks");
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

async fn a_database_that_is_not_there(db: Database) {
    let url = db.url_with(|url| url.set_path("locks_of_nobody"));
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
    assert!(error.to_string().contains("locks_of_nobody"), "{error}");
    Plain::connect(&url)
        .await
        .expect_err("it is still not there");
}

#[tokio::test]
async fn a_url_of_no_engine() {
    for url in [
        "",
        ":",
        "locks.db",
        "/tmp/locks.db",
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
async fn a_file_that_cannot_be_a_database() {
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

#[test]
fn bad_input_costs_no_connection() {
    // The checks come first: nothing listens here, and nobody asks.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    port.set_nonblocking(true).unwrap();
    let url = format!("postgres://u@{}/d", port.local_addr().unwrap());
    assert_eq!(Engine::of_url(&url), Engine::Postgres);
    for builder in [
        LockManager::builder().namespace("A"),
        LockManager::builder().task_id(""),
    ] {
        let error = builder
            .connect(&url)
            .blocking()
            .expect_err("this cannot be");
        assert!(
            matches!(error, LockError::InvalidConfig { .. }),
            "{error:?}"
        );
    }
    port.accept().expect_err("nobody has come");
}
