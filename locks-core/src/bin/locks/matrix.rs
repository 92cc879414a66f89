//! The conflict matrix of the option `--matrix`.

use std::{fs, str::FromStr};

use locks_core::ConflictMatrix;
use serde::Deserialize;

/// `platform`, `exclusive`, or the path of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix(pub(crate) ConflictMatrix);

/// The calls that make a matrix in Rust, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<(String, Vec<String>)>,
    #[serde(default)]
    symmetric: bool,
    #[serde(default)]
    limits: Vec<(String, u32)>,
}

impl FromStr for Matrix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "platform" => Ok(Self(ConflictMatrix::platform())),
            "exclusive" => Ok(Self(ConflictMatrix::exclusive())),
            path => read(path).map(Self),
        }
    }
}

fn read(path: &str) -> Result<ConflictMatrix, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("neither `platform` nor `exclusive`, nor a file: {error}"))?;
    let file = serde_json::from_str::<File>(&text).map_err(|error| error.to_string())?;
    file.check()?;
    Ok(file.into_matrix())
}

impl File {
    fn check(&self) -> Result<(), String> {
        let (requested, held) = (self.rules.iter().map(|rule| &rule.0), &self.rules);
        let held = held.iter().flat_map(|rule| &rule.1);
        let limited = self.limits.iter().map(|limit| &limit.0);
        if let Some(pattern) = requested.chain(held).chain(limited).find(|p| !is_valid(p)) {
            return Err(format!(
                "invalid pattern {pattern:?}: a pattern has 1 to 255 bytes, and `*` only at its end"
            ));
        }
        match self.limits.iter().find(|limit| limit.1 == 0) {
            Some((pattern, _)) => Err(format!("the limit of {pattern:?} is 0")),
            None => Ok(()),
        }
    }

    /// The matrix, which lasts as long as the program.
    fn into_matrix(self) -> ConflictMatrix {
        let leak = |text: String| &*text.leak();
        let rules = self.rules.into_iter().map(|(requested, held)| {
            let held = held.into_iter().map(leak).collect::<Vec<_>>();
            (leak(requested), &*held.leak())
        });
        let limits = self
            .limits
            .into_iter()
            .map(|(text, most)| (leak(text), most));
        let matrix = ConflictMatrix::new(rules.collect::<Vec<_>>().leak())
            .limits(limits.collect::<Vec<_>>().leak());
        if self.symmetric {
            matrix.symmetric()
        } else {
            matrix
        }
    }
}

fn is_valid(pattern: &str) -> bool {
    let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
    (1..=255).contains(&pattern.len()) && !prefix.contains('*')
}
