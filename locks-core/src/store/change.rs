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
    pub(super) fn parse(text: &str) -> Option<Self> {
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
    fn parsed_payload_is_the_change_that_was_sent() {
        let change = Change {
            namespace: "platform".into(),
            version: i64::MAX,
        };
        let text = Change::text(&change.namespace, change.version);
        assert_eq!(Change::parse(&text), Some(change));
        for text in ["", "platform", "platform x", "platform 1 2"] {
            assert_eq!(Change::parse(text), None, "{text}");
        }
    }
}
