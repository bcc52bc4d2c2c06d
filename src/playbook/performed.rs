//! What a playbook can ask for and this version can't do yet. Nothing that is asked for is silently left out.

use crate::{
    model::Plan,
    yaml::{Diagnostic, Location},
};

/// A key, and whether the plan asks by it for something that is not done yet.
type Missing = (&'static str, fn(&Plan) -> bool);

const MISSING: [Missing; 2] =
    [("linked_dirs", |plan| !plan.linked.dirs.is_empty()), ("linked_files", |plan| !plan.linked.files.is_empty())];

/// Returns the keys among `given` that ask for more than there is.
pub(super) fn missing(plan: &Plan, given: &[(String, Location)]) -> Vec<Diagnostic> {
    let asked = MISSING.iter().filter(|(_, asks)| asks(plan));
    let place = |key: &str| given.iter().find(|(name, _)| name == key).map(|(_, place)| place);
    asked
        .filter_map(|(key, _)| Some((key, place(key)?)))
        .map(|(key, place)| {
            let message = format!("`{key}` can't be performed by this version of fleetdrop");
            Diagnostic::new(place, message).with_hint("remove it from the playbook, or use a version that can")
        })
        .collect()
}
