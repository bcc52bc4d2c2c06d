//! Whether an origin has what it should, before it is used.

use hyper::StatusCode;

use super::{
    address::{self, Part},
    client::Client,
    reply,
};
use crate::{
    http::{Answer, HttpError},
    swarm::{Metainfo, policy::Run},
};

/// What an origin is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Good {
    /// For any part of the artifact.
    Parts,
    /// Only for the whole of it: it does not serve ranges.
    Whole,
}

impl Client {
    /// Finds out what the origin is good for: asks it for one byte and looks at the length that it tells.
    ///
    /// # Errors
    /// Why it is good for nothing: it can't be asked, or does not have the artifact.
    pub(crate) async fn probe(&self, meta: &Metainfo) -> Result<Good, HttpError> {
        let Some(mut part) = address::parts(self.origin(), meta, Run { first: 0, count: 1 }).pop_front() else {
            return Err(HttpError::Answer("the artifact has no pieces".to_owned()));
        };
        if let Some(range) = &mut part.ask.range {
            range.end = range.start + 1;
            part.bytes = 1;
        }
        let answer = self.get(&part.ask).await?;
        let good = match (answer.status, part.file) {
            (StatusCode::PARTIAL_CONTENT, Some(_)) => check_part(&answer, &part).map(|()| Good::Parts),
            (StatusCode::OK, Some(length)) => {
                check_length(reply::content_length(&answer.headers), length).map(|()| Good::Whole)
            }
            (StatusCode::OK, None) => check_length(reply::content_length(&answer.headers), part.bytes).map(|()| Good::Parts),
            // It has fewer bytes than the first: none.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(length)) => check_length(Some(0), length).map(|()| Good::Whole),
            _ => return Err(self.refusal(answer).await),
        }?;
        if good == Good::Parts {
            self.keep(answer).await;
        }
        Ok(good)
    }
}

/// Checks that an answer is the part that was asked for.
pub(super) fn check_part(answer: &Answer, part: &Part) -> Result<(), HttpError> {
    if reply::is_encoded(&answer.headers) {
        return Err(HttpError::Answer("it compresses what it sends, though it was asked not to".to_owned()));
    }
    let Some(wanted) = &part.ask.range else {
        return check_length(reply::content_length(&answer.headers), part.bytes);
    };
    let Some(came) = reply::content_range(&answer.headers) else {
        return Err(HttpError::Answer("it does not say which part it sends".to_owned()));
    };
    if let (Some(of), Some(length)) = (came.of, part.file) {
        check_length(Some(of), length)?;
    }
    if came.bytes != *wanted {
        return Err(HttpError::Answer("it sends another part than it was asked for".to_owned()));
    }
    Ok(())
}

/// Checks a length, if it is told.
fn check_length(told: Option<u64>, length: u64) -> Result<(), HttpError> {
    match told {
        Some(told) if told != length => Err(HttpError::Answer(format!("it has {told} bytes, the artifact has {length}"))),
        _ => Ok(()),
    }
}
