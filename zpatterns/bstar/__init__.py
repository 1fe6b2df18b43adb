"""Binary Star: any service of ours as one half of a pair (Guide chapter 4)."""
