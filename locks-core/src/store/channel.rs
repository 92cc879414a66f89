//! Channels: user-level locks by which waiting processes hear that something was freed.
//!
//! A driver holds the lock of its channel on its row connection, and frees it for a moment after a
//! write that frees something. A process whose request is blocked by a session of that driver
//! waits for the lock, on a connection of its own. The server frees the lock of a process that
//! dies. It is a hint and proves nothing.

use super::{
    connection::Connection,
    executor::{Argument, ColumnType, Value},
    failure::Failure,
};

/// How long a channel is waited for, in seconds.
#[allow(dead_code, reason = "not every engine has channels")]
pub(super) const CHANNEL_LIMIT: u32 = 10;

/// The statements of channels. The argument is the name of the channel, once for each placeholder.
#[derive(Debug)]
pub(super) struct ChannelStatements {
    /// Takes the lock, if no connection has it. One placeholder → 1 if it has it now
    pub(super) hold: String,
    /// Frees the lock, and takes it again after those who wait for it. Two placeholders → 1 if it
    /// had it, 1 if it has it again
    pub(super) free: String,
    /// Waits for the lock and frees it. Two placeholders → 1 if it came, 1 if it was freed
    pub(super) wait: String,
}

impl Connection {
    /// Holds a channel until the connection ends. Another connection may have it, such as an earlier
    /// one of this driver whose end the server has not seen: then nothing is reported on it.
    pub(super) async fn hold_channel(&mut self, channel: &str) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let Some(channels) = &statements.channels else {
            return Ok(());
        };
        let args = [Argument::Text(channel)];
        let held = self.ask(&channels.hold, &args).await?;
        if held.last() == Some(&Some(1)) {
            self.channels.push(channel.to_owned());
        }
        Ok(())
    }

    /// Reports on the channel of a namespace, if the connection holds it.
    pub(super) async fn free_channel(
        &mut self,
        channels: &ChannelStatements,
        namespace: &str,
    ) -> Result<(), Failure> {
        let of = |channel: &&String| {
            let rest = channel.strip_prefix(namespace);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let Some(channel) = self.channels.iter().find(of).cloned() else {
            return Ok(());
        };
        let args = [Argument::Text(&channel); 2];
        let held = self.ask(&channels.free, &args).await?;
        if held.last() != Some(&Some(1)) {
            // Another report would wait as long.
            self.channels.retain(|other| *other != channel);
        }
        Ok(())
    }

    /// Waits until a channel is free. Returns whether it is.
    pub(crate) async fn await_channel(&mut self, channel: &str) -> Result<bool, Failure> {
        let statements = self.statements.clone();
        let Some(channels) = &statements.channels else {
            return Ok(false);
        };
        let args = [Argument::Text(channel); 2];
        let came = self.ask(&channels.wait, &args).await?;
        Ok(came.first() == Some(&Some(1)))
    }

    /// The numbers in the row that the statement returns, as many as it has arguments.
    async fn ask(&mut self, sql: &str, args: &[Argument<'_>]) -> Result<Vec<Option<i64>>, Failure> {
        let types = [ColumnType::Int; 2];
        let rows = self.fetch(sql, args, &types[..args.len()]).await?;
        Ok(rows.into_iter().flatten().map(Value::int).collect())
    }
}
