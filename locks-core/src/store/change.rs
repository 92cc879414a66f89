//! Reports of changes that other processes make to the row.

/// How an engine reports a change, in addition to reading the row.
#[allow(
    dead_code,
    reason = "the constructed variants depend on the compiled engines"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ChangeSource {
    #[default]
    None,
    /// A number that changes when another connection writes. Reading it is nearly free.
    DataVersion,
    /// Notifications on a connection of their own.
    Notifications,
    /// Reports of the operating system that the file was written.
    Reports,
}

/// The begin of the payload of a probe. No namespace contains it.
const PROBE: &str = "? ";

/// What a listening connection has received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every engine sends notifications")]
pub(crate) enum Signal {
    /// Nothing within the time limit.
    Nothing,
    Changed(Change),
    /// A probe of this process or another, with its id.
    Probe(String),
    /// A payload that cannot be parsed: any row may have changed.
    Unknown,
}

impl Signal {
    /// The payload of a probe.
    pub(super) fn probe(id: &str) -> String {
        format!("{PROBE}{id}")
    }

    /// Parses a payload.
    #[allow(dead_code, reason = "not every engine sends notifications")]
    pub(super) fn parse(text: &str) -> Self {
        match text.strip_prefix(PROBE) {
            Some(id) => Self::Probe(id.into()),
            None => Change::parse(text).map_or(Self::Unknown, Self::Changed),
        }
    }
}

/// A notification: the row of a namespace was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) namespace: String,
    /// The version of the written row.
    pub(crate) version: i64,
}

impl Change {
    /// The payload of a notification.
    pub(super) fn text(namespace: &str, version: i64) -> String {
        format!("{namespace} {version}")
    }

    /// Parses a payload; `None` if it has another format.
    #[allow(dead_code, reason = "not every engine sends notifications")]
    fn parse(text: &str) -> Option<Self> {
        let (namespace, version) = text.split_once(' ')?;
        Some(Self {
            namespace: namespace.into(),
            version: version.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_payload_is_the_signal_that_was_sent() {
        let change = Change {
            namespace: "platform".into(),
            version: i64::MAX,
        };
        let text = Change::text(&change.namespace, change.version);
        assert_eq!(Signal::parse(&text), Signal::Changed(change));
        let probe = Signal::probe("1f");
        assert_eq!(Signal::parse(&probe), Signal::Probe("1f".into()));
        for text in ["", "platform", "platform x", "platform 1 2"] {
            assert_eq!(Signal::parse(text), Signal::Unknown, "{text}");
        }
    }
}
