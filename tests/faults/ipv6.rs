//! A server whose address in the URL is `[::1]`.

use std::net::{Ipv6Addr, SocketAddr};

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
};
use tokio::net::{TcpListener, TcpStream};

on_every_engine!(servers: async server_is_reached_by_its_ipv6_address);

async fn server_is_reached_by_its_ipv6_address(db: Database) {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else {
        note("left out: [::1], because this machine has no IPv6");
        return;
    };
    let address = listener.local_addr().expect("an address");
    tokio::spawn(forward(listener, db.server_address()));
    let url = db.url_via(address);
    assert!(url.contains("@[::1]:"), "{address}");
    let locks = LockManager::connect(&url).await.expect("it connects");
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
    locks.close().await.expect("it answers");
}

/// Forwards every connection to the server.
async fn forward(listener: TcpListener, server: SocketAddr) {
    while let Ok((mut client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut server = TcpStream::connect(server).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}
