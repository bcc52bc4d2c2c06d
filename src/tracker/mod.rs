//! The run's tracker: announce and scrape over HTTP (BEP 3, 23, 7, 48), in the controller's process.
