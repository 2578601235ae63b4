"""Open core of Luminescent: what a memory is, what a provider must do, where a deployment plugs in."""
