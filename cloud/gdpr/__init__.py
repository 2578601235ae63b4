"""The rights of the people whose memories these are: erasure (GDPR Art. 17), access and portability (Art. 15, 20)."""
