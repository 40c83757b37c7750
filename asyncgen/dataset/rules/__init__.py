"""What today's fine-tuning APIs ask of a training file, checked on this machine.

fault       what is wrong with an example
chat        an example of messages
preference  an example for DPO: a conversation with a better and a worse answer
pair        an example of prompt and completion
file        a whole file: every line, and what holds for all of them
"""
