use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;
use crate::model::{FailureBudget, Plan};

fn deploy_args(line: &str) -> Result<deploy::DeployArgs, clap::Error> {
    match Cli::try_parse_from(line.split(' '))?.command {
        Command::Deploy(args) => Ok(args.deploy),
        other => panic!("{other:?}"),
    }
}

fn output() -> Output {
    let args = OutputArgs { output: output::Format::Plain, color: output::Color::Never, verbose: 0, quiet: true };
    Output::detect(&args)
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
    let plan = args.plan(&output()).unwrap();
    assert_eq!(plan, Plan::default());
    assert_eq!(plan.rollout.max_failures.after, FailureBudget::NONE);
    assert_eq!(plan.keep_releases, 5);
    assert_eq!(args.cache_limit, 10 << 30);
    assert_eq!(args.switch.lease, Duration::from_secs(30));
    assert_eq!(args.connection.max_logins, 64);
    assert_eq!(args.connection.host_key_checking, None);
    assert_eq!(args.connection.connect_timeout, None);
    assert_eq!(args.connection.fleet.limit, None);
    assert_eq!((args.encryption, args.torrent_out), (deploy::Encryption::On, None));
}

#[test]
fn options_go_before_the_playbook_and_it_before_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    std::fs::write(
        &file,
        "app: shop\ndeploy_to: /srv/shop\nkeep_releases: 7\nconfirm_timeout: 1m\nrollout: {max_failures: 10%}\n",
    )
    .unwrap();
    let line = format!("fleetdrop deploy a.zip -i f --playbook {}", file.display());
    let plan = |more: &str| deploy_args(&format!("{line}{more}")).unwrap().plan(&output()).unwrap();
    let of_file = plan("");
    assert_eq!(of_file.app.unwrap().as_str(), "shop");
    assert_eq!(of_file.deploy_to.unwrap().as_str(), "/srv/shop");
    assert_eq!(of_file.keep_releases, 7);
    assert_eq!(of_file.confirm_timeout, Duration::from_secs(60));
    assert_eq!(of_file.rollout.max_failures.after, FailureBudget::Percent(10));
    let over = plan(" --app store --deploy-to ~/store --keep-releases 3 --confirm-timeout 9s --max-failures 2");
    assert_eq!(over.app.unwrap().as_str(), "store");
    assert_eq!(over.deploy_to.unwrap().as_str(), "~/store");
    assert_eq!(over.keep_releases, 3);
    assert_eq!(over.confirm_timeout, Duration::from_secs(9));
    assert_eq!(over.rollout.max_failures.after, FailureBudget::Hosts(2));
    assert_eq!(over.rollout.max_failures.canary, None);
    std::fs::write(&file, "rollout: {max_failures: {canary: 50%, after: 10%}}\n").unwrap();
    let max_failures = plan(" --app store --max-failures 2").rollout.max_failures;
    assert_eq!(max_failures.canary, Some(FailureBudget::Percent(50)), "the option is the fleet's");
    assert_eq!(max_failures.after, FailureBudget::Hosts(2));
}

#[test]
fn a_deploy_refuses_a_playbook_that_is_no_good() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    std::fs::write(&file, "ap: shop\n").unwrap();
    let line = format!("fleetdrop deploy a.zip -i f --playbook {}", file.display());
    let error = deploy_args(&line).unwrap().plan(&output()).unwrap_err();
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
    assert!(error.to_string().contains("unknown key `ap`"), "{error}");
    let error = deploy_args("fleetdrop deploy a.zip -i f --playbook none.yaml").unwrap().plan(&output()).unwrap_err();
    assert!(error.to_string().contains("none.yaml: cannot be read"), "{error}");
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
        "fleetdrop deploy a.zip -i f --deploy-to relative",
        "fleetdrop deploy a.zip -i f --deploy-to /srv/../etc",
        "fleetdrop playbook",
        "fleetdrop playbook check",
        "fleetdrop deploy a.zip -i f --become-user root",
        "fleetdrop deploy a.zip -i f --encryption maybe",
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
