//! What a ferry says: the process on a host that carries one stream between the host's loopback and its standard streams.

/// What comes before the port in a ferry's first line. A login shell may have printed lines before.
const MARKER: &str = "FLEETDROP-FERRY-AT ";

/// Returns the line that tells where a ferry takes its stream, on the host's loopback.
pub fn ferry_line(port: u16) -> String {
    format!("{MARKER}{port}\n")
}

/// Reads that line; none for any other.
pub fn ferry_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_once(MARKER)?;
    port.trim_end().parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_behind_whatever_the_shell_printed() {
        assert_eq!(ferry_port(&ferry_line(4711)), Some(4711));
        assert_eq!(ferry_port("welcome FLEETDROP-FERRY-AT 1"), Some(1));
        for other in
            ["", "welcome", "FLEETDROP-FERRY-AT", "FLEETDROP-FERRY-AT 0", "FLEETDROP-FERRY-AT 65536", "FLEETDROP-FERRY-AT 1x"]
        {
            assert_eq!(ferry_port(other), None, "{other}");
        }
    }
}
