//! All of an artifact from one origin, one file after the other: for whoever wants it without knowing its pieces. Serving ranges is not needed
//! but to go on where an answer broke off.

use hyper::StatusCode;
use url::Url;

use super::{
    address::Part,
    client::{Ask, Client},
    probe,
};
use crate::{
    http::{Answer, HttpError},
    model::Tree,
};

/// A file that an origin has.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Where.
    pub(crate) url: Url,
    /// How long it is, in bytes.
    pub(crate) length: u64,
}

impl Client {
    /// Returns the files whose bytes, one after the other, are the artifact of that name and size: one, or those of a directory with that
    /// listing.
    pub(crate) fn files(&self, name: &str, size: u64, tree: Option<&Tree>) -> Vec<File> {
        let seed = &self.origin().seed;
        match tree {
            None => vec![File { url: seed.of_file(name), length: size }],
            Some(tree) => {
                let files = tree.files();
                files.map(|(_, path, file)| File { url: seed.of_file_in(name, path), length: file.length }).collect()
            }
        }
    }

    /// Asks for what a file has from a byte on. The answer's body is that, unless the origin breaks its word.
    ///
    /// # Errors
    /// If it does not have a file of that length there, or can't be asked.
    pub(crate) async fn rest_of(&self, file: &File, from: u64) -> Result<Answer, HttpError> {
        let range = (from > 0).then_some(from..file.length);
        let goes_on = range.is_some();
        let part = Part {
            ask: Ask { url: file.url.clone(), range },
            bytes: file.length.saturating_sub(from),
            file: Some(file.length),
        };
        let answer = self.get(&part.ask).await?;
        match (answer.status, goes_on) {
            (StatusCode::PARTIAL_CONTENT, true) | (StatusCode::OK, false) => {
                probe::check_part(&answer, &part)?;
                Ok(answer)
            }
            (StatusCode::OK, true) => Err(HttpError::Answer("it can't go on where it broke off".to_owned())),
            _ => Err(self.refusal(answer).await),
        }
    }
}
