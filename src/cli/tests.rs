use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;
use crate::model::FailureBudget;

fn deploy_args(line: &str) -> Result<deploy::DeployArgs, clap::Error> {
    match Cli::try_parse_from(line.split(' '))?.command {
        Command::Deploy(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_declarations_are_consistent_and_every_option_is_documented() {
    let mut command = Cli::command();
    command.build();
    command.clone().debug_assert();
    for command in command.get_subcommands() {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}

#[test]
fn a_deploy_needs_little_and_has_safe_defaults() {
    let args = deploy_args("fleetdrop deploy shop.tar.zst --hosts inventory.yaml").unwrap();
    assert_eq!(args.switch.max_failures, FailureBudget::NONE);
    assert_eq!(args.keep_releases, 5);
    assert_eq!(args.cache_limit, 10 << 30);
    assert_eq!(args.switch.lease, Duration::from_secs(30));
    assert_eq!(args.connection.max_logins, 64);
    assert_eq!(args.connection.host_key_checking, None);
    assert_eq!(args.connection.connect_timeout, None);
    assert_eq!(args.connection.fleet.limit, None);
}

#[test]
fn ansibles_short_options_mean_the_same() {
    let args = deploy_args("fleetdrop deploy a.zip -i inv.yaml -l web*:!web03 -u deploy -b --private-key id").unwrap();
    assert_eq!(args.connection.fleet.limit.as_deref(), Some("web*:!web03"));
    assert_eq!(args.connection.user.as_deref(), Some("deploy"));
    assert!(args.connection.r#become);
    assert_eq!(args.connection.identity_file.as_deref(), Some("id".as_ref()));
}

#[test]
fn output_options_are_taken_before_and_after_the_command() {
    for line in ["fleetdrop --output json -v status -i f --app shop", "fleetdrop status -i f --app shop --output json -v"] {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.output.output, output::Format::Json, "{line}");
        assert_eq!(cli.output.verbose, 1, "{line}");
    }
}

#[test]
fn bad_arguments_are_refused() {
    for line in [
        "fleetdrop",
        "fleetdrop deploy",
        "fleetdrop deploy a.zip",
        "fleetdrop deploy a.zip -i f --max-failures -1",
        "fleetdrop deploy a.zip -i f --max-failures 200%",
        "fleetdrop deploy a.zip -i f --keep-releases 1",
        "fleetdrop deploy a.zip -i f --cache-limit 10XB",
        "fleetdrop deploy a.zip -i f --lease 1s",
        "fleetdrop deploy a.zip -i f --lease 2d",
        "fleetdrop deploy a.zip -i f --max-logins 0",
        "fleetdrop deploy a.zip -i f --host-key-checking maybe",
        "fleetdrop deploy a.zip -i f --app ../etc",
        "fleetdrop deploy a.zip -i f --become-user root",
        "fleetdrop deploy a.zip -i f -q -v",
        "fleetdrop rollback -i f --app shop --to ../../etc",
        "fleetdrop agent",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
        assert!(error.use_stderr(), "{line}");
    }
}

#[test]
fn help_and_version_are_not_errors() {
    for (line, kind) in [
        ("fleetdrop --help", ErrorKind::DisplayHelp),
        ("fleetdrop help deploy", ErrorKind::DisplayHelp),
        ("fleetdrop deploy --help", ErrorKind::DisplayHelp),
        ("fleetdrop --version", ErrorKind::DisplayVersion),
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.kind(), kind, "{line}");
        assert!(!error.use_stderr(), "{line}");
    }
}
