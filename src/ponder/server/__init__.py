"""Every strategy behind the OpenAI API: any program that speaks to OpenAI gets test-time compute by changing an address."""
