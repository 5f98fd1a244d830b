"""The HTTP clients of fw: `import fw_sdk as fw`."""
