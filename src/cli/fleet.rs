//! From arguments to a fleet: the inventory's hosts, the way to reach them, the agents to push.
//!
//! With [`super::output`] the only part that looks at the environment: home directory, ssh-agent, user, PATH.

use std::{
    env,
    ffi::OsString,
    io::{IsTerminal, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    CommandError, ErrorKind, Output, ResultExt, approve,
    connection::{ConnectionArgs, HostKeyChecking},
    exit, value,
};
use crate::{
    controller::{AgentFinder, FleetSettings, RunError},
    inventory::{Become, HostEntry, Inventory, InventoryError, Warning},
    model::{FailureBudget, Operator, Plan, plan::DeployTo},
    report::{Screen, escape},
    ssh::{Connector, HostKeyPolicy, SshSettings, SshWarning},
};

/// Where things are on the hosts.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct PlaceArgs {
    /// The application's root on the hosts [default: `fleetdrop_deploy_to` in the inventory, then /srv/APP for root and
    /// ~/fleetdrop/APP otherwise]
    #[arg(long, value_name = "DIR")]
    pub deploy_to: Option<DeployTo>,

    /// Directory of the agent and of cached artifacts on the hosts [default: /var/cache/fleetdrop for root and
    /// ~/.cache/fleetdrop otherwise]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<String>,
}

/// How the fleet switches: what may fail, and how long hosts wait for the controller.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct SwitchArgs {
    /// How many hosts may drop out: a number or a percentage of the fleet. One more before anything is switched, and nothing is
    /// [default: 0]
    #[arg(long, value_name = "N|P%", allow_hyphen_values = true)]
    pub max_failures: Option<FailureBudget>,

    /// How long a host goes on without a word from here before it stops by itself
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::host_patience)]
    pub lease: Duration,

    /// How long a host that has switched waits for the confirmation from here before it goes back [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = value::host_patience)]
    pub confirm_timeout: Option<Duration>,

    /// Let every wave switch without asking
    #[arg(long, short)]
    pub yes: bool,
}

impl PlaceArgs {
    /// Puts what the options say over the plan.
    pub fn go_over(&self, plan: &mut Plan) {
        if let Some(path) = &self.deploy_to {
            plan.deploy_to = Some(path.clone());
        }
    }
}

impl SwitchArgs {
    /// Puts what the options say over the plan.
    pub fn go_over(&self, plan: &mut Plan) {
        if let Some(budget) = self.max_failures {
            plan.rollout.max_failures.after = budget;
        }
        if let Some(time) = self.confirm_timeout {
            plan.confirm_timeout = time;
        }
    }
}

/// Loads the inventory and prepares the way to its hosts. No host is touched. With `yes` nobody is asked before a wave.
pub fn settings(
    args: &ConnectionArgs,
    cache: Option<String>,
    lease: Duration,
    yes: bool,
    plan: &Plan,
    output: &Output,
) -> Result<FleetSettings, CommandError> {
    let approval = approve::approval(plan.rollout.pause, yes)?;
    let hosts = hosts(args, output)?;
    let connector = Connector::new(ssh_settings(args)?).or_input("cannot prepare SSH connections")?;
    for SshWarning { message, hint } in connector.warnings() {
        warn(&message, Some(&hint), output);
    }
    let own = env::current_exe().or_internal("cannot find this program's own executable")?;
    Ok(FleetSettings {
        operator: Some(Operator::of(&operator())),
        hosts,
        connector,
        finder: Arc::new(AgentFinder::new(args.agent_dir.clone(), own)),
        cache,
        deploy_to: plan.deploy_to.clone().map(String::from),
        lease,
        confirm: plan.confirm_timeout,
        rollout: plan.rollout.clone(),
        hooks: plan.hooks.clone(),
        health: plan.health.clone(),
        approval,
        exit_code: exit::of_run,
    })
}

/// Turns an inventory's error into the command's.
pub fn inventory_error(error: InventoryError) -> CommandError {
    let (snippet, hint) = (error.snippet(), error.hint().map(str::to_owned));
    CommandError::in_file(error, snippet, hint)
}

/// Shows what the inventory was warned of, unless the operator wants quiet.
pub fn show_warnings(warnings: &[Warning], output: &Output) {
    for warning in warnings {
        warn(&warning.to_string(), warning.hint.as_deref(), output);
    }
}

/// Warns on stderr, unless the operator wants quiet.
pub fn warn(message: &str, hint: Option<&str>, output: &Output) {
    if output.quiet {
        return;
    }
    let mut stderr = std::io::stderr().lock();
    let (limit, palette) = (500, output.palette());
    // Without a stderr there is nobody to warn.
    let _ = writeln!(stderr, "{} {}", palette.note("warning:"), escape::line(message, limit));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "  {} {}", palette.note("hint:"), escape::line(hint, limit));
    }
}

/// Turns the error of a run that did not begin into the command's.
pub fn run_error(error: RunError) -> CommandError {
    let hint = error.hint();
    let kind = if error.is_input() { ErrorKind::Input } else { ErrorKind::Internal };
    CommandError::new(kind, error).hints(hint)
}

fn hosts(args: &ConnectionArgs, output: &Output) -> Result<Vec<HostEntry>, CommandError> {
    let loaded = Inventory::load(&args.fleet.hosts).map_err(inventory_error)?;
    show_warnings(&loaded.warnings, output);
    let mut hosts = loaded.inventory.select(args.fleet.limit.as_deref()).map_err(inventory_error)?;
    if args.r#become {
        let user = args.become_user.as_deref().unwrap_or("root");
        for host in &mut hosts {
            host.r#become = Some(Become { user: user.to_owned() });
        }
    }
    Ok(hosts)
}

fn ssh_settings(args: &ConnectionArgs) -> Result<SshSettings, CommandError> {
    let home = etcetera::home_dir().or_input("cannot tell your home directory; set HOME")?;
    let mut settings = SshSettings::new(home, variable(["LOGNAME", "USER"]).unwrap_or_else(|| "root".to_owned()));
    settings.agent_socket = env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
    settings.ssh_client = in_path("ssh");
    settings.config_file = args.ssh_config.clone();
    settings.known_hosts = args.known_hosts.clone();
    settings.identity_files = args.identity_file.iter().cloned().collect();
    settings.user = args.user.clone();
    settings.host_keys = args.host_key_checking.map(|mode| match mode {
        HostKeyChecking::Strict => HostKeyPolicy::Strict,
        HostKeyChecking::AcceptNew => HostKeyPolicy::AcceptNew,
        HostKeyChecking::No => HostKeyPolicy::No,
    });
    settings.connect_timeout = args.connect_timeout;
    settings.max_logins = usize::from(args.max_logins);
    settings.passphrase = std::io::stdin().is_terminal().then(|| Arc::new(ask_passphrase) as _);
    Ok(settings)
}

/// Asks on the terminal. Which keys need it is known only once hosts have refused the others, so a run may be under way.
fn ask_passphrase(key: &Path) -> Option<String> {
    Screen::stderr().ask(|| {
        let mut terminal = console::Term::stderr();
        write!(terminal, "passphrase of {}: ", escape::line(&key.to_string_lossy(), 200)).ok()?;
        terminal.read_secure_line().ok().filter(|line| !line.is_empty())
    })
}

/// Returns who is at the command line: a person, also behind sudo, and the machine.
pub fn operator() -> String {
    let number = || format!("#{}", rustix::process::getuid().as_raw());
    let user = variable(["SUDO_USER", "LOGNAME", "USER"]).unwrap_or_else(number);
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{machine}")
}

/// Returns the words of this process's command line; addresses without their queries, which may hold a signature.
pub fn command_line() -> Vec<String> {
    env::args_os().map(|word| without_query(&word.to_string_lossy())).collect()
}

fn without_query(word: &str) -> String {
    match word.split_once('?') {
        Some((address, _)) if address.contains("://") => format!("{address}?…"),
        _ => word.to_owned(),
    }
}

/// Returns the first of these environment variables that says something.
fn variable<const N: usize>(names: [&str; N]) -> Option<String> {
    names.into_iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Returns where programs are sought, if the environment says.
pub fn search_path() -> Option<OsString> {
    env::var_os("PATH")
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = search_path()?;
    env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
