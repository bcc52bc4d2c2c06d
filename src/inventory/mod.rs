//! Ansible-compatible inventories, patterns and `ssh_config`.
