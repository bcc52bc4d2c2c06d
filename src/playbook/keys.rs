//! The keys of a playbook's top and of its `rollout`.

use std::{path::PathBuf, time::Duration};

use super::{
    commands::HookLists,
    health::HealthKeys,
    origin::{OriginKeys, web_seeds},
    section::{Key, Mapping, Section, Seen, key},
    shape::{Amount, ByKind, Choice, List, Placed, Shape as _, Text, Time, Whole, WordOr, duration},
    transfer::TransferKeys,
};
use crate::{
    model::{
        AppName, FailureBudget, Plan,
        plan::{
            DeployTo, FailureBudgets, HOST_PATIENCE, KEEP_RELEASES, Linked, LinkedPath, OnFailure, Order, Pause, RolloutPlan,
            Unchanged, WaveSize, Waves,
        },
        trust::{MOST_KEYS, TrustedKey},
    },
    yaml::{Diagnostic, Location},
};

/// The longest path, in bytes.
const MAX_PATH: usize = 1024;
/// How much longer than hooks and checks the progress deadline is that nobody gave.
const SPARE: Duration = Duration::from_secs(60);

/// The whole playbook.
#[derive(Default)]
pub(super) struct Top {
    plan: Plan,
    dirs: Vec<(LinkedPath, Location)>,
    files: Vec<(LinkedPath, Location)>,
    deadline: Option<Location>,
}

impl Section for Top {
    type Value = Plan;

    fn keys() -> Vec<Key<Self>> {
        let app = Text {
            expected: "a name of letters, digits, `.`, `_` and `-` that starts with a letter, a digit or `_`",
            pattern: "^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
            longest: 200,
            parse: |text| AppName::new(text).map_err(|error| error.to_string()),
        };
        let deploy_to = Text {
            expected: "a directory's absolute path, or start with `~/`",
            pattern: "^(/|~/)",
            longest: MAX_PATH,
            parse: |text| DeployTo::new(text).map_err(|error| error.to_string()),
        };
        let mut keys = vec![
            key(
                "app",
                "The application's name. Default: the artifact's name without its archive suffix.",
                app,
                |top: &mut Self, app| {
                    top.plan.app = Some(app);
                },
            ),
            key(
                "deploy_to",
                "The application's root on the hosts. Default: `fleetdrop_deploy_to` in the inventory, then /srv/APP for root and \
                 ~/fleetdrop/APP otherwise.",
                deploy_to,
                |top: &mut Self, path| top.plan.deploy_to = Some(path),
            ),
            key(
                "keep_releases",
                "How many releases stay on each host, the current and the previous included.",
                Whole(KEEP_RELEASES),
                |top: &mut Self, number| top.plan.keep_releases = number,
            )
            .default(5),
            key("linked_dirs", "Directories that all releases share: in each release a link to shared/, where they are made if they are missing.", linked(), |top: &mut Self, dirs| {
                top.dirs = dirs
            })
            .default(Vec::<String>::new()),
            key("linked_files", "Files that all releases share: in each release a link to shared/, where they must be.", linked(), |top: &mut Self, files| {
                top.files = files
            })
            .default(Vec::<String>::new()),
            key(
                "unchanged",
                "What a host does whose live release already is what is deployed: skip everything, or activate it once more, with hooks \
                 and health checks.",
                Choice(&[("skip", Unchanged::Skip), ("activate", Unchanged::Activate)]),
                |top: &mut Self, unchanged| top.plan.unchanged = unchanged,
            )
            .default("skip"),
            key("rollout", "Who switches when.", Mapping::<RolloutKeys>::new(), |top: &mut Self, (rollout, deadline)| {
                (top.plan.rollout, top.deadline) = (rollout, deadline);
            }),
            key(
                "hooks",
                "What runs on each host, in the directory of the new release.",
                Mapping::<HookLists>::new(),
                |top: &mut Self, hooks| {
                    top.plan.hooks = hooks;
                },
            ),
            key(
                "health",
                "When a host that has switched counts as healthy.",
                Mapping::<HealthKeys>::new(),
                |top: &mut Self, health| {
                    top.plan.health = health;
                },
            ),
            key(
                "confirm_timeout",
                "How long a host that has switched waits for the controller's word before it goes back.",
                Time(HOST_PATIENCE),
                |top: &mut Self, time| top.plan.confirm_timeout = Duration::from_secs(time.as_secs()),
            )
            .default("30s"),
        ];
        keys.extend(of_transfer().into_iter().chain(of_trust()));
        keys
    }

    fn finish(mut self, seen: &mut Seen<'_>) -> Option<Plan> {
        tell_overlaps(self.dirs.iter().chain(&self.files), seen);
        let paths = |placed: Vec<(LinkedPath, Location)>| placed.into_iter().map(|(path, _)| path).collect();
        // What can't be linked has been told, with its place.
        self.plan.linked = Linked::new(paths(self.dirs), paths(self.files)).unwrap_or_default();
        settle_deadline(&mut self.plan, self.deadline.as_ref(), seen);
        Some(self.plan)
    }
}

/// Returns the keys about how the artifact comes to the hosts, and web servers that have it.
fn of_transfer() -> [Key<Top>; 3] {
    [
        key("transfer", "How the artifact comes to the hosts.", Mapping::<TransferKeys>::new(), |top: &mut Top, transfer| {
            top.plan.transfer = transfer
        }),
        key(
            "web_seeds",
            "Web servers that have the artifact: its address, or its directory's, with `/` at the end.",
            web_seeds(),
            |top: &mut Top, seeds| top.plan.web_seeds = seeds,
        )
        .default(Vec::<String>::new()),
        key(
            "origin",
            "How the web servers that have the artifact may be used.",
            Mapping::<OriginKeys>::new(),
            |top: &mut Top, origin| top.plan.origin = origin,
        ),
    ]
}

/// Returns the keys about signatures.
fn of_trust() -> [Key<Top>; 2] {
    let trusted = Text {
        expected: "a minisign public key (`RW...`) or an OpenSSH public key (`ssh-ed25519 AAAA...`)",
        pattern: "",
        longest: 4096,
        parse: |text| text.parse::<TrustedKey>().map_err(|error| error.to_string()),
    };
    let file = Text { expected: "a file's path", pattern: "^[^~]", longest: MAX_PATH, parse: |text| Ok(PathBuf::from(text)) };
    [
        key(
            "trusted_keys",
            "The keys that may sign artifacts. With any, hosts take only what one of them signed (`fleetdrop sign`).",
            List { entries: 0..=MOST_KEYS, of: trusted },
            |top: &mut Top, keys| top.plan.trust.keys = keys,
        )
        .default(Vec::<String>::new()),
        key(
            "allowed_signers",
            "A file in OpenSSH's form with keys that may sign artifacts, below the playbook's directory unless it starts with `/`.",
            file,
            |top: &mut Top, file| top.plan.trust.allowed_signers = Some(file),
        ),
    ]
}

/// A host that is at work must not count as one that gets no further: without a deadline in the playbook there is one that is long
/// enough, and one that is too short is told.
fn settle_deadline(plan: &mut Plan, given: Option<&Location>, seen: &mut Seen<'_>) {
    let (needed, longest) = (plan.longest_silence(), *RolloutPlan::PROGRESS_DEADLINE.end());
    let deadline = plan.rollout.progress_deadline;
    let [shown, most] = [needed, longest].map(duration);
    let takes = format!("hooks and health checks of one host may take {shown}");
    match given {
        _ if needed > longest => {
            let problem =
                Diagnostic::new(&seen.place("hooks"), format!("{takes}, longer than the longest progress deadline ({most})"));
            seen.problem(problem.with_hint("give them shorter timeouts"));
        }
        Some(place) if deadline < needed => {
            let message = format!(
                "`rollout.progress_deadline` is {}, but {takes}: it would count as failed while it still works",
                duration(deadline)
            );
            let problem = Diagnostic::new(place, message);
            seen.problem(problem.with_hint(format!("make it at least {shown}, or give them shorter timeouts")));
        }
        Some(_) => (),
        None => plan.rollout.progress_deadline = deadline.max(needed + SPARE).min(longest),
    }
}

fn linked() -> List<Placed<Text<LinkedPath>>> {
    let path = Text {
        expected: "a path below the release, without `/` at its start",
        pattern: "^[^/~]",
        longest: MAX_PATH,
        parse: |text| LinkedPath::new(text).map_err(|error| error.to_string()),
    };
    List { entries: 0..=Linked::MOST, of: Placed(path) }
}

/// Of two links of which one lies below the other only one can be made.
fn tell_overlaps<'a>(links: impl Iterator<Item = &'a (LinkedPath, Location)>, seen: &mut Seen<'_>) {
    let mut earlier: Vec<&(LinkedPath, Location)> = Vec::new();
    for link in links {
        if let Some((other, place)) = earlier.iter().find(|(other, _)| other.overlaps(&link.0)) {
            let line = place.line().unwrap_or(0);
            let message = match *other == link.0 {
                true => format!("`{}` is already linked, on line {line}", link.0),
                false => format!("`{}` can't be linked beside `{other}` on line {line}: one lies below the other", link.0),
            };
            seen.problem(Diagnostic::new(&link.1, message).with_hint("remove one of the two"));
        }
        earlier.push(link);
    }
}

/// `rollout`.
#[derive(Default)]
struct RolloutKeys(RolloutPlan, Option<Location>);

impl Section for RolloutKeys {
    /// The plan, and the place of its deadline if that was given.
    type Value = (RolloutPlan, Option<Location>);

    fn keys() -> Vec<Key<Self>> {
        let waves = ByKind::scalar(wave_size().map(|size| vec![size])).list(List { entries: 1..=Waves::MOST, of: wave_size() });
        let budgets = ByKind::scalar(budget().map(FailureBudgets::of_fleet)).mapping(Mapping::<BudgetKeys>::new());
        let pause =
            WordOr { word: "confirm", means: Pause::Confirm, other: Time(Duration::ZERO..=Pause::LONGEST).map(Pause::For) };
        let order = Choice(&[("inventory", Order::Inventory), ("shuffled", Order::Shuffled), ("zone", Order::Zone)]);
        let on_failure =
            Choice(&[("rollback", OnFailure::Rollback), ("stop", OnFailure::Stop), ("continue", OnFailure::Continue)]);
        vec![
            key(
                "waves",
                "How many hosts switch at a time: numbers or percentages of the fleet. The last one is repeated until every host \
                 has switched.",
                waves,
                // The list has its entries.
                |rollout: &mut Self, sizes| rollout.0.waves = Waves::new(sizes).unwrap_or_else(Waves::all_at_once),
            )
            .default("100%"),
            key("max_failures", "How many hosts may drop out before the rollout stops.", budgets, |rollout: &mut Self, budgets| {
                rollout.0.max_failures = budgets;
            })
            .default(0),
            key("pause", "What lies between two waves: a time, or `confirm` to wait for the operator.", pause, |rollout: &mut Self, pause| {
                rollout.0.pause = pause;
            })
            .default("0s"),
            key(
                "order",
                "In which order hosts come into waves: as in the inventory, shuffled, or one zone after the other.",
                order,
                |rollout: &mut Self, order| rollout.0.order = order,
            )
            .default("inventory"),
            key(
                "on_failure",
                "What follows when too many hosts drop out: hosts that are live go back, stay, or the next waves go on.",
                on_failure,
                |rollout: &mut Self, on_failure| rollout.0.on_failure = on_failure,
            )
            .default("stop"),
            key(
                "progress_deadline",
                "How long a wave may go on without any of its hosts getting further, and a host may take to go back; at least as long \
                 as hooks and health checks of one host may take. Without it that is seen to.",
                Placed(Time(RolloutPlan::PROGRESS_DEADLINE)),
                |rollout: &mut Self, (time, place)| (rollout.0.progress_deadline, rollout.1) = (time, Some(place)),
            )
            .default("10m"),
        ]
    }

    fn finish(self, _: &mut Seen<'_>) -> Option<Self::Value> {
        Some((self.0, self.1))
    }
}

fn wave_size() -> Amount<WaveSize> {
    Amount { least: 1, hosts: WaveSize::Hosts, percent: WaveSize::Percent }
}

fn budget() -> Amount<FailureBudget> {
    Amount { least: 0, hosts: FailureBudget::Hosts, percent: FailureBudget::Percent }
}

/// `rollout.max_failures` as a mapping.
#[derive(Default)]
struct BudgetKeys(FailureBudgets);

impl Section for BudgetKeys {
    type Value = FailureBudgets;

    fn keys() -> Vec<Key<Self>> {
        vec![
            key(
                "canary",
                "Of the first wave's hosts, once they have been told to switch, also where it is the only wave. Without it only `after` \
                 bounds them.",
                budget(),
                |budgets: &mut Self, budget| {
                    budgets.0.canary = Some(budget);
                },
            ),
            key("after", "Of the whole fleet, from first to last.", budget(), |budgets: &mut Self, budget| {
                budgets.0.after = budget
            })
            .default(0),
        ]
    }

    fn finish(self, _: &mut Seen<'_>) -> Option<FailureBudgets> {
        Some(self.0)
    }
}
